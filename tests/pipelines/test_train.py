import filelock
import pytest

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import Reason, read_plans, write_plans
from autoseg.errors import DatasetError, LockedError, UsageError
from autoseg.network.weights.model_file import load_model
from autoseg.pipelines.train import train
from autoseg.system.atomic_files import read_json, write_json
from autoseg.training.folds import choose_fold
from autoseg.training.logging.metrics_log import read_metrics
from autoseg.training.validation.component_filter_choice import OrganPieces, write_pieces

SPLITS = [
    {"train": ["case_1", "case_2"], "validation": ["case_0"]},
    {"train": ["case_0", "case_2"], "validation": ["case_1"]},
    {"train": ["case_0", "case_1"], "validation": ["case_2"]},
]


GHOST = OrganPieces(0.1, 400, (390, 8), (380, 0))
BRANCH = OrganPieces(0.1, 400, (200, 180), (190, 170))


@pytest.fixture
def run(tiny_plans, make_store, tmp_path):
    """Make a planned run by hand: three preprocessed cases in three folds."""
    plans = tiny_plans(2, training={"steps_per_epoch": 2, "epochs": 1})
    folder = tmp_path / "run"
    make_store(plans, folder=folder / "preprocessed")
    write_plans(plans, folder / "plans.json")
    write_json(folder / "splits.json", SPLITS)
    return folder


def test_a_fold_is_validated_on_the_cases_it_left_out(run):
    result = train(run, fold="1", device="cpu")
    assert result.folder == run / "fold_1" and result.steps == 2 and result.seconds > 0
    folder = run / "fold_1" / "validation"
    assert {path.name for path in folder.iterdir()} == {"case_1.nii.gz", "pieces.json", "summary.json"}
    summary = read_json(folder / "summary.json")
    assert summary["mean_dice"] == result.dice
    assert summary["mean_dice_uncleaned"] == summary["cases"]["case_1"]
    for name, dice in result.dice.items():  # no rule for one case, so nothing was removed
        assert dice == pytest.approx(summary["cases"]["case_1"][name])
    assert result.dice.keys() == {"organ 0", "organ 1"}
    [record] = read_metrics(run / "fold_1" / "metrics.jsonl")
    assert result.fraction_waiting_for_data == pytest.approx(record["fraction_waiting_for_data"])


def test_what_is_a_speck_is_chosen_on_all_folds_that_were_validated(run):
    pieces = {"organ 0": GHOST, "organ 1": BRANCH}
    plans = read_plans(run / "plans.json")
    for fold in "02":
        folder = run / f"fold_{fold}" / "validation"
        write_pieces(folder, {f"case_{fold}{n}": pieces for n in range(2)}, plans=plans)
    other = apply_settings(plans, ["network.feature_channels=32"])
    write_pieces(run / "fold_7" / "validation", {f"case_7{n}": {"old organ": GHOST} for n in range(9)}, plans=other)
    train(run, fold="1", device="cpu")
    for fold, num_cases in (("1", 5), ("all", 5)):
        train(run, fold=fold, device="cpu")
        _, plans = load_model(run / f"fold_{fold}" / "model.safetensors")
        assert [rule.organ for rule in plans.inference.component_filter] == ["organ 0"]
        facts = plans.reasons["inference.component_filter"].facts
        assert facts["num_cases"] == num_cases
        assert facts["organs"]["organ 0"]["dice_with_the_best"] > facts["organs"]["organ 0"]["dice_without"]
    summary = read_json(run / "fold_1" / "validation" / "summary.json")
    assert set(summary["mean_dice"]) == {"organ 0", "organ 1"}


def test_a_users_own_rule_for_specks_stays(run, tiny_plans):
    mine = apply_settings(
        tiny_plans(2, training={"steps_per_epoch": 2, "epochs": 1}),
        ['inference.component_filter=[{"organ": "organ 1", "min_volume_ml": 3}]'],
    )
    mine = mine.model_copy(
        update={"reasons": {"inference.component_filter": Reason(rule="Set by my.json, not by the planner.")}}
    )
    write_plans(mine, run / "plans.json")
    pieces = {f"case_{n}": {"organ 0": GHOST, "organ 1": GHOST} for n in range(4)}
    write_pieces(run / "fold_0" / "validation", pieces, plans=mine)
    train(run, fold="all", device="cpu")
    assert (
        load_model(run / "fold_all" / "model.safetensors")[1].inference.component_filter
        == mine.inference.component_filter
    )


def test_all_trains_on_every_case_and_validates_none(run):
    result = train(run, epochs=1, device="cpu")
    assert result.folder == run / "fold_all" and result.steps == 2 and result.dice == {}
    assert not (run / "fold_all" / "validation").exists()


@pytest.mark.parametrize(
    ("fold", "training", "monitored", "seen"),
    [
        ("all", ("case_0", "case_1", "case_2"), ("case_0", "case_1", "case_2"), True),
        ("0", ("case_1", "case_2"), ("case_0",), False),
        ("2", ("case_0", "case_1"), ("case_2",), False),
    ],
)
def test_choose_fold_reads_the_splits(run, make_store, tiny_plans, fold, training, monitored, seen):
    store = make_store(tiny_plans(2))
    assert choose_fold(run, store, fold=fold) == (training, monitored, seen)


def test_choose_fold_refuses_cases_that_are_not_preprocessed(run, make_store, tiny_plans):
    with pytest.raises(UsageError, match=r"names the case 'case_2', which is not preprocessed .*autoseg_plan again"):
        choose_fold(run, make_store(tiny_plans(2), 2), fold="0")


def test_choose_fold_refuses_a_fold_without_a_case_to_train_on(run, make_store, tiny_plans):
    write_json(run / "splits.json", [{"train": [], "validation": ["case_0"]}, {"train": ["case_0"], "validation": []}])
    store = make_store(tiny_plans(2), 1)
    with pytest.raises(UsageError, match="fold 0 has no case to train on"):
        choose_fold(run, store, fold="0")
    assert choose_fold(run, store, fold="1")[1] == ()


@pytest.mark.parametrize("fold", ["3", "-1", "00", "²", "../0", "", "All"])
def test_a_fold_that_is_not_there_is_refused(run, fold):
    with pytest.raises(UsageError, match="this run has the folds 0, 1, 2, and all"):
        train(run, fold=fold, device="cpu")
    assert not list(run.glob("fold_*"))


@pytest.mark.parametrize(
    "length", [{"epochs": 0}, {"epochs": 1, "max_minutes": 1.0}, {"max_minutes": 0.0}, {"max_minutes": float("nan")}]
)
def test_a_length_that_cannot_be_is_refused(run, length):
    with pytest.raises(UsageError, match="--epochs and --max-minutes"):
        train(run, device="cpu", **length)


def test_a_folder_without_a_plan_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"plans\.json does not exist"):
        train(tmp_path, device="cpu")


def test_a_fold_that_is_being_trained_is_locked_until_its_owner_is_gone(run):
    (run / "fold_0").mkdir()
    with (
        filelock.FileLock(run / "fold_0" / ".lock"),
        pytest.raises(LockedError, match=r"fold_0: another run works on it\. Wait"),
    ):
        train(run, fold="0", device="cpu")
    assert train(run, fold="0", device="cpu").steps == 2


def test_cases_preprocessed_under_another_plan_are_refused(run, tiny_plans):
    other = apply_settings(tiny_plans(2), ["data.crop_to_nonzero=false"])
    write_plans(other, run / "plans.json")
    with pytest.raises(DatasetError, match="made with another plan"):
        train(run, device="cpu")


def test_a_preprocessed_case_that_was_damaged_is_removed_and_named_before_training(run):
    path = run / "preprocessed" / "case_1" / "labels.b2nd"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"1 of \d preprocessed cases .* Run autoseg_plan again(.|\n)*case_1"):
        train(run, device="cpu")
    assert not path.parent.exists() and not (run / "fold_all" / "resume.pt").exists()
