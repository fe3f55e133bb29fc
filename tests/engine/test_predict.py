import numpy as np
import pytest
import torch
from torch import nn

from bsssl.data.loading.dataset import Failure
from bsssl.engine.features import Tap
from bsssl.engine.predict import average, predict
from bsssl.models import classifier
from bsssl.runtime.device import Compute
from tests.engine.trainings import CPU, make_model, normalize


def batch(*rows, view=0, failures=(), hashes=None):
    generator = torch.Generator().manual_seed(rows[0])
    made = {
        "input": torch.randint(0, 256, (len(rows), 3, 6, 6), dtype=torch.uint8, generator=generator),
        "target": torch.full((len(rows),), -1),
        "index": torch.tensor(rows),
        "view": torch.full((len(rows),), view),
        "failures": list(failures),
    }
    return made | ({"hash": hashes} if hashes else {})


def test_softmax_by_row():
    model = make_model(dropout=0.9)
    batches = [batch(4, 2), batch(7, view=3, hashes=[b"7"], failures=[Failure(5, "empty")])]
    first, second = predict(model, batches, normalize=normalize, compute=CPU)
    assert first.index.tolist() == [4, 2] and second.index.tolist() == [7] and second.view.tolist() == [3]
    assert first.hashes == [] and second.hashes == [b"7"]
    assert first.failures == [] and second.failures == [Failure(5, "empty")]
    with torch.no_grad():
        expected = model.eval()(normalize(batches[0]["input"])).softmax(1)  # dropout is off
    assert first.probabilities.dtype == np.float32
    np.testing.assert_array_equal(first.probabilities, expected.numpy())


def test_whole_batch_unreadable():
    failures = [Failure(0, "empty"), Failure(1, "not an image")]
    (found,) = predict(make_model(), [{"failures": failures}], normalize=normalize, compute=CPU)
    assert found.probabilities.shape == (0, 0) and found.failures == failures
    assert len(found.index) == len(found.view) == len(found.hashes) == 0


def test_precision_and_memory_format():
    model = make_model()
    (plain,) = predict(model, [batch(1, 2, 3)], normalize=normalize, compute=CPU)
    compute = Compute(device=CPU.device, precision="bfloat16", channels_last=True)
    seen = []
    watched = compute.place_model(nn.Sequential(Watch(seen), model))
    (low,) = predict(watched, [batch(1, 2, 3)], normalize=normalize, compute=compute)
    assert low.probabilities.dtype == np.float32
    np.testing.assert_allclose(low.probabilities, plain.probabilities, atol=0.02)
    assert not np.array_equal(low.probabilities, plain.probabilities)
    assert seen == [True]


class Watch(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, inputs):
        self.seen.append(inputs.is_contiguous(memory_format=torch.channels_last))
        return inputs


@pytest.mark.parametrize("compiled", [False, True])
def test_features_come_with_the_scores_pass_after_pass(compiled):
    network = make_model().eval()
    layer = classifier(network)[1]
    tap = Tap(layer)
    # Compiling without generating machine code, which needs a compiler and many seconds.
    ran = torch.compile(network, backend="aot_eager") if compiled else network
    for rows in ([1, 2, 3], [4, 5, 6]):
        (found,) = predict(ran, [batch(*rows)], normalize=normalize, compute=CPU, tap=tap)
        assert found.features.dtype == np.float32
        logits = layer(torch.from_numpy(found.features))
        np.testing.assert_allclose(logits.detach().softmax(1).numpy(), found.probabilities, rtol=1e-4, atol=1e-6)


def test_of_several_networks_the_features_are_the_first_ones():
    first, second = make_model(), make_model(seed=1)
    tap = Tap(classifier(first)[1])

    def said(network, tap=None, failures=()):
        return predict(network, [batch(4, 2, failures=failures)], normalize=normalize, compute=CPU, tap=tap)

    (alone,) = said(first, tap)
    (found,) = average([said(first, tap), said(second, failures=[Failure(4, "shorter than its clip")])])
    assert found.index.tolist() == [2]
    np.testing.assert_array_equal(found.features, alone.features[1:])
