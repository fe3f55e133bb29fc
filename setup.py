"""Packaging; everything else about the tools is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "video": [
        "pytorchvideo>=0.1.5",
        "av>=14",
        # decord has no other builds.
        "decord>=0.6; sys_platform == 'linux' and platform_machine == 'x86_64'",
    ],
    "torchcodec": ["torchcodec>=0.7"],  # another reader of videos; needs the shared libraries of FFmpeg
    # Kinds of pictures that Pillow reads with packages, and the Pillow that reads AVIF.
    "pictures": ["pillow>=11.3", "pillow-heif>=0.18", "pillow-jxl-plugin>=1.3"],
    "slurm": ["submitit>=1.5.1"],  # jobs on a cluster
    "s3": ["s3fs>=2024.2"],  # s3:// paths
    "clip": ["open_clip_torch>=3.0"],  # networks that were trained on pictures and texts, such as zero-shot teachers
    "transformers": ["transformers>=4.50"],  # VideoMAE, TimeSformer and ViViT
    "onnx": ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"],  # ONNX files, written and checked
}
"""what only some need, by what it is for"""

LOGGERS = {"tensorboard": ["tensorboard>=2.14"], "wandb": ["wandb>=0.20"], "mlflow": ["mlflow>=2.14"]}
"""what the figures of trainings can be sent to"""

DEVELOPMENT = [
    *("pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.11"),
    *("build>=1.2", "setuptools>=77", "twine>=6.1"),  # `make package`
    # Without the parts of MLflow that a store on this machine needs.
    *(*LOGGERS["tensorboard"], *LOGGERS["wandb"], "mlflow-skinny>=2.14"),
    "jsonschema>=4.18",  # which validates by the schema of configs, for the tests of that
    "webdataset>=0.2.100",  # which reads the same tars, for the tests of that
    "moto[s3,server]>=5",  # a server that speaks S3, for the tests of remote data
]


def description() -> str:
    """Return README.md for the page of a package index: without its pictures, which are not there, and with the paths
    of files, which the source distribution has, in the place of links to them."""
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\]\((?!https://)[^)]*\)\n+", "", text)
    return re.sub(r"\[([^]]+)\]\((?!https://)([^)#]*)[^)]*\)", _without_link, text)


def _without_link(link: re.Match[str]) -> str:
    text, path = link.groups()
    return text if path in text else f"{text} (`{path}`)"


setup(
    name="bsssl",
    version="0.1.0",
    description="A few labels and a very large unlabeled pool make a better small model (Yalniz et al. 2019)",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="The bsssl authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        *("semi-supervised learning", "image classification", "video classification", "knowledge distillation"),
        *("pseudo-labels", "self-training", "PyTorch"),
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    project_urls={"Paper": "https://arxiv.org/abs/1905.00546"},
    packages=[*find_packages(include=["bsssl", "bsssl.*"]), "bsssl.projects"],
    package_dir={"bsssl.projects": "projects"},
    package_data={"bsssl": ["py.typed", "reports/templates/*"], "bsssl.projects": ["*/*.yaml", "*/*.csv"]},
    python_requires=">=3.10",
    install_requires=[
        "ImageHash>=4.3",
        "faiss-cpu>=1.9",
        # torch and torchvision are left unpinned together: pip then takes builds that match.
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.12",
        "huggingface_hub>=0.23",
        "fvcore>=0.1.5.post20221221",
        "numpy>=1.26",
        "pillow>=10",
        "pyarrow>=15",
        "pydantic>=2.9",
        "PyYAML>=6",
        "fsspec[http]>=2024.2",
        "safetensors>=0.4.3",
        "xxhash>=3.0",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        **EXTRAS,
        **LOGGERS,
        "loggers": [package for packages in LOGGERS.values() for package in packages],
        "benchmarks": ["duckdb>=1.0", "polars>=1.0"],
        "dev": [*(package for packages in EXTRAS.values() for package in packages), *DEVELOPMENT],
    },
    entry_points={"console_scripts": ["bsssl=bsssl.cli:main"]},
)
