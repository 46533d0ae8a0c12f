import pickle

from autoseg.network.weights.load_errors import explain_load_failure


def test_nobody_is_told_to_load_a_file_without_the_guard():
    torch_says = "Weights only load failed. Re-running with `weights_only` set to `False` will likely succeed"
    for error in (pickle.UnpicklingError(torch_says), RuntimeError(torch_says)):
        assert (
            explain_load_failure(error)
            == "it is no file of tensors and plain values alone, and what else it holds is not run"
        )
