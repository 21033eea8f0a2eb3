# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The fuzzer finds bugs that are planted, names the call, and survives a crash and a hang."""

import calls
import client
import ledger
import pytest
import strategies
import torch
import worker

import fastconv

SHUFFLE = fastconv.channel_shuffle
POOL = fastconv.depth_max_pool
CONV = fastconv.depthwise_conv1d
PATIENCE = 120  # seconds to find what takes one or two


def one_element_off(x, groups):
    y = SHUFFLE(x, groups)
    if y.device.type == "cpu" and y.numel() > 20 and y.dtype == torch.float32:
        y.detach()[(-1,) * y.dim()] += 1
    return y


def other_strides(x, groups):
    return SHUFFLE(x, groups).contiguous()


def unknown_to_meta(x, groups):
    return SHUFFLE(x, groups) if x.device.type == "cpu" else SHUFFLE(x, groups)[:-1]


def another_error(x, groups):
    try:
        return SHUFFLE(x, groups)
    except RuntimeError as error:
        raise KeyError(f"channel_shuffle: {error}") from error


def accepts_too_much(x, groups):
    ok = isinstance(x, torch.Tensor) and type(groups) is int and groups > 0 and x.dim() > 2
    return SHUFFLE(x, 1 if ok and x.shape[1] % groups else groups)


def writes_its_input(x, groups):
    y = SHUFFLE(x, groups)
    if isinstance(x, torch.Tensor) and x.dtype == torch.float32 and x.is_contiguous():
        x.detach().zero_()
    return y


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def wrong_gradient(input, weight, bias=None, **kwargs):
    y = CONV(input, weight, bias, **kwargs)
    return Doubled.apply(y) if y.requires_grad else y


def last_maximum_wins(x, *args, **kwargs):
    if not kwargs.get("return_indices") or x.dtype != torch.float32:
        return POOL(x, *args, **kwargs)
    y, index = POOL(x, *args, **kwargs)
    return y, torch.where(index > 3, index - 1, index)


def depends_on_threads(input, weight, bias=None, **kwargs):
    y = CONV(input, weight, bias, **kwargs)
    return y if torch.get_num_threads() < 3 else y * (1 + 2**-20)


PLANTED = {
    "one_element_off": ("channel_shuffle", one_element_off, "bytes differ"),
    "other_strides": ("channel_shuffle", other_strides, "strides"),
    "unknown_to_meta": ("channel_shuffle", unknown_to_meta, "a meta call"),
    "another_error": ("channel_shuffle", another_error, "it raised KeyError"),
    "accepts_too_much": ("channel_shuffle", accepts_too_much, "the model says"),
    "writes_its_input": ("channel_shuffle", writes_its_input, "wrote input|bytes differ"),
    "wrong_gradient": ("depthwise_conv1d", wrong_gradient, "gradient"),
    "last_maximum_wins": ("depth_max_pool", last_maximum_wins, "indices"),
    "depends_on_threads": ("depthwise_conv1d", depends_on_threads, "with one thread|result"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name, monkeypatch, tmp_path, rng):
    target, planted, match = PLANTED[name]
    monkeypatch.setattr(fastconv, target, planted)
    journal = worker.Journal(str(tmp_path / "journal"))
    answer = worker.fuzz(target, rng.initial_seed(), PATIENCE, journal)
    assert answer["report"], f"not found in {answer['counts']} calls"
    with pytest.raises(AssertionError, match=match) as error:
        raise AssertionError(answer["report"])
    # The report ends with a call that fails in the same way, and passes once the bug is gone.
    call = calls.parse(str(error.value).partition("smallest call: ")[2].splitlines()[0])
    assert isinstance(call.args[0], calls.T | type(None) | float | list | str)
    with pytest.raises(Exception):  # noqa: B017
        worker.judge(call)
    monkeypatch.undo()
    assert worker.judge(call) == "passed"


@pytest.mark.parametrize(
    ("how", "body"),
    [
        ("signal 11", "import ctypes; ctypes.string_at(0)"),
        ("exit code 1", "import time; time.sleep(10000)"),
    ],
    ids=["crash", "hang"],
)
def test_a_dead_worker_names_the_call(how, body, tmp_path, rng):
    prelude = f"""
import calls, fastconv, worker
worker.judge(calls.Call("channel_shuffle", (calls.T((2, 4, 3, 3), grad=True),), {{"groups": 2}}))
worker.HANG = 6  # of what takes milliseconds, once the first call has loaded all it needs
shuffle = fastconv.channel_shuffle
def planted(x, groups):
    y = shuffle(x, groups)
    if y.numel() > 100:
        {body}
    return y
fastconv.channel_shuffle = planted
"""
    with client.Fuzzer(tmp_path, prelude) as fuzzer:
        answer = fuzzer.run("channel_shuffle", rng.initial_seed(), PATIENCE)
        assert f"the worker died ({how}" in answer["report"]
        assert "most recent call first" in answer["report"]  # its stack, from faulthandler
        call = calls.parse(answer["report"].splitlines()[1])
        assert call.function == "channel_shuffle" and torch.Size(call.x.shape).numel() > 100
        fuzzer.prelude = ""
        assert fuzzer.run("channel_shuffle", rng.initial_seed(), 0)["report"] is None


def test_calls_survive_their_text(rng):
    import hypothesis

    drawn = []

    @hypothesis.seed(rng.initial_seed())
    @hypothesis.settings(database=None, deadline=None, max_examples=50)
    @hypothesis.given(hypothesis.strategies.one_of(*strategies.FUNCTIONS.values()))
    def draw(call):
        assert repr(calls.parse(repr(call))) == repr(call)
        drawn.append(call)

    draw()
    assert len({call.function for call in drawn}) > 5


# Sound calls, and errors as torch's, that the judge once took for failures.
PASSING = {
    "a batch of two dimensions": "Call('pixel_unshuffle', (T((2, 2, 1, 2, 1), "
    "layout='permuted:9'),), {'downscale_factor': (2, 1)})",
    "the layer's rank": "Call('nn.DepthwiseConvTranspose2d', (T((2, 1, 1, 1)), [2, 1, 1, 1]), "
    "{'in_channels': 1, 'out_channels': 1, 'kernel_size': (1, 1, 1), 'stride': (1, 1), "
    "'padding': 0, 'output_padding': (0, 1), 'dilation': (1, 2), 'bias': False})",
    "torch's IndexError": "Call('nn.DepthwiseConvTranspose3d', (T((2, 1, 1, 1, 1)), "
    "[2, 1, 1, 1, 1]), {'in_channels': 1, 'out_channels': 1, 'kernel_size': (1, 1), "
    "'stride': (1, 1, 1), 'padding': 0, 'output_padding': 0, 'dilation': (1, 1, 1)})",
    "more than a float16 can hold": "Call('depthwise_conv2d', (T((2, 3, 90, 90), 'float16', "
    "'scalar', 'large', grad=True), T((3, 1, 3, 3), 'float16', grad=True), T((3,), 'float16', "
    "grad=True)), {}, grad_layout='scalar')",
}


@pytest.mark.parametrize("name", PASSING)
def test_what_was_misjudged(name):
    assert worker.judge(calls.parse(PASSING[name])) == "passed"


def test_every_waiver_still_fails():
    """A known failure that passes is fixed: its entry has to go."""
    for waiver in ledger.load():
        assert len(waiver.reason.split()) > 3, "a reason is a sentence"
        assert worker.judge(calls.parse(waiver.call)) == "waived", waiver.call


def test_a_waiver_covers_its_failure_only(monkeypatch, tmp_path):
    file = tmp_path / "ledger.toml"
    file.write_text(
        "[[waiver]]\n"
        'function = "channel_shuffle"\n'
        'where = "args[0].shape[0] == 2"\n'
        'message = "strides"\n'
        'reason = "planted by this test"\n'
        "call = '''Call('channel_shuffle', (T((2, 6, 3, 3), layout='channels_last'),), "
        "{'groups': 2})'''\n"
    )
    (waiver,) = ledger.load(file)
    monkeypatch.setattr(ledger, "waivers", lambda: (waiver,))
    call = calls.parse(waiver.call)
    assert worker.judge(call) == "passed"
    monkeypatch.setattr(fastconv, "channel_shuffle", other_strides)
    assert worker.judge(call) == "waived"
    x = calls.T((1, 6, 3, 3), layout="channels_last")
    with pytest.raises(AssertionError, match="strides"):
        worker.judge(calls.Call("channel_shuffle", (x,), {"groups": 2}))
    monkeypatch.setattr(fastconv, "channel_shuffle", one_element_off)
    with pytest.raises(AssertionError, match="bytes differ"):
        worker.judge(call)
