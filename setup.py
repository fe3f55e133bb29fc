"""Packaging; everything else about the tools is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="bsssl",
    version="0.1.0",
    description="A few labels and a very large unlabeled pool make a better small model (Yalniz et al. 2019)",
    license="Apache-2.0",
    packages=[*find_packages(include=["bsssl", "bsssl.*"]), "bsssl.projects"],
    package_dir={"bsssl.projects": "projects"},
    package_data={"bsssl": ["py.typed", "reports/templates/*"], "bsssl.projects": ["*/*.yaml", "*/*.csv"]},
    python_requires=">=3.10",
    install_requires=[
        # torch and torchvision are left unpinned together: pip then takes builds that match.
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.12",
        "huggingface_hub>=0.23",
        "pytorchvideo>=0.1.5",
        "av>=14",
        # decord has no other builds.
        "decord>=0.6; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "submitit>=1.5.1",
        "fvcore>=0.1.5.post20221221",
        "numpy>=1.26",
        "pillow>=10",
        "pyarrow>=15",
        "pydantic>=2.9",
        "PyYAML>=6",
        "fsspec[http]>=2024.2",
        "safetensors>=0.4.3",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        "torchcodec": ["torchcodec>=0.7"],  # needs the shared libraries of FFmpeg
        "clip": ["open_clip_torch>=3.0"],  # networks that were trained on pictures and texts
        "onnx": ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"],  # ONNX files, written and checked
        "s3": ["s3fs>=2024.2"],  # s3:// paths
        "dev": [
            *("pytest>=8", "pytest-xdist>=3.5", "ruff>=0.6", "mypy>=1.11", "torchcodec>=0.7"),
            *("open_clip_torch>=3.0", "onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"),
            "setuptools>=70.1",  # which builds a wheel, for the tests of what is installed
            "jsonschema>=4.18",  # which validates by the schema of configs, for the tests of that
            "transformers>=4.50",  # which loads trained networks of timm, for the tests of that
            *("s3fs>=2024.2", "moto[s3,server]>=5"),  # a server that speaks S3, for the tests of remote data
        ],
        "benchmarks": ["duckdb>=1.0", "polars>=1.0"],
    },
    entry_points={"console_scripts": ["bsssl=bsssl.cli:main"]},
)
