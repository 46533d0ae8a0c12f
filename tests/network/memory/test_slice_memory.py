from dataclasses import replace

import pytest
import torch

from autoseg.network.memory.slice_memory import SliceMemory
from autoseg.network.sam2_modules import (
    MemoryTokens,
    PositionEmbeddingSine,
    build_memory_attention,
    build_memory_encoder,
)

CHANNELS, SIDE = 16, 2


def make_memory(**changes):
    return SliceMemory(
        **{
            "attention": build_memory_attention("nano", feature_channels=CHANNELS, side=SIDE),
            "encoder": build_memory_encoder(feature_channels=CHANNELS),
            "tokens": MemoryTokens(CHANNELS),
            "position": PositionEmbeddingSine(num_pos_feats=CHANNELS, normalize=True),
            "channels": CHANNELS,
            "num_slices": 3,
            "num_bytes": 10**6,
            "num_recalled": 2,
            "update": "similarity",
            **changes,
        }
    ).eval()


def write(memory, bank, coarse, *, position=0, num_organs=2, masks=None, tokens=None, presence=0.75):
    num = len(coarse)
    return memory.write(
        bank,
        coarse,
        masks=torch.rand(num, num_organs, 8, 8) if masks is None else masks,
        tokens=torch.randn(num, num_organs, CHANNELS) if tokens is None else tokens,
        presence=torch.full((num, num_organs if tokens is None else tokens.shape[1]), presence),
        quality=torch.rand(num, num_organs),
        positions=torch.full((num,), position),
    )


@pytest.mark.parametrize("num_organs", [1, 5])
def test_a_memory_has_the_same_size_for_any_number_of_organs_but_for_their_pointers(num_organs):
    bank = write(make_memory(), None, torch.randn(3, CHANNELS, SIDE, SIDE), num_organs=num_organs, position=7)
    assert bank.features.shape == (3, 1, CHANNELS // 4, SIDE, SIDE)
    assert bank.pointers.shape == (3, 1, num_organs, CHANNELS)
    assert bank.positions.tolist() == [[7]] * 3


def test_what_is_read_depends_on_what_was_written_and_on_how_far_away_it_is():
    memory, coarse = make_memory(), torch.randn(1, CHANNELS, SIDE, SIDE)
    bank = write(memory, None, torch.randn(1, CHANNELS, SIDE, SIDE))
    other = write(memory, None, torch.randn(1, CHANNELS, SIDE, SIDE))
    here = memory.read(coarse, bank, torch.tensor([1]))
    assert here.shape == coarse.shape
    assert not torch.allclose(here, memory.read(coarse, other, torch.tensor([1])), atol=1e-3)
    assert not torch.allclose(here, memory.read(coarse, bank, torch.tensor([30])), atol=1e-4)
    assert torch.equal(here, memory.read(coarse, bank, torch.tensor([1])))


def test_no_more_than_the_most_similar_entries_are_read():
    memory, coarse = make_memory(), torch.randn(1, CHANNELS, SIDE, SIDE)
    bank = write(memory, None, coarse + 0.01 * torch.randn_like(coarse), position=1)
    bank = write(memory, bank, coarse + 0.02 * torch.randn_like(coarse), position=2)
    bank = write(memory, bank, -coarse, position=3)  # as unlike as can be: never among the two that are read
    changed = replace(bank, features=bank.features.clone())
    changed.features[:, 2] += 5
    assert torch.equal(*(memory.read(coarse, one, torch.tensor([0])) for one in (bank, changed)))
    changed.features[:, 1] += 5
    assert not torch.allclose(*(memory.read(coarse, one, torch.tensor([0])) for one in (bank, changed)), atol=1e-3)


def test_absent_organs_leave_sams_tokens_of_absence():
    memory, coarse = make_memory(), torch.randn(1, CHANNELS, SIDE, SIDE)
    masks, tokens = torch.zeros(1, 2, 8, 8), torch.randn(1, 2, CHANNELS)
    here, gone = (write(memory, None, coarse, masks=masks, tokens=tokens, presence=p) for p in (1.0, 0.0))
    assert torch.allclose(here.pointers[0, 0], memory.tokens.obj_ptr_proj(tokens[0]))
    assert torch.allclose(gone.pointers[0, 0], memory.tokens.no_obj_ptr.expand(2, -1))
    difference = (gone.features - here.features)[0, 0]
    assert torch.allclose(difference, memory.tokens.no_obj_embed_spatial[0].view(-1, 1, 1).expand_as(difference))


def test_ranks_have_the_codes_of_sams_last_frames_and_share_the_oldest():
    tokens = MemoryTokens(CHANNELS)
    codes = tokens.rank_code(8)
    assert torch.equal(codes[0], tokens.maskmem_tpos_enc[5, 0, 0])
    assert torch.equal(codes[5], tokens.maskmem_tpos_enc[0, 0, 0])
    assert torch.equal(codes[5], codes[7])


def test_a_bank_never_takes_more_bytes_than_it_may_but_holds_one_slice():
    one = write(make_memory(), None, torch.randn(2, CHANNELS, SIDE, SIDE)).num_bytes() // 2  # of each of two volumes
    for num_bytes, expected in ((1, 1), (2 * one, 2), (3 * one - 1, 2), (99 * one, 3)):
        memory, bank = make_memory(num_bytes=num_bytes), None
        for position in range(6):
            bank = write(memory, bank, torch.randn(2, CHANNELS, SIDE, SIDE), position=position)
            assert bank.num_bytes() <= max(2 * one, 2 * num_bytes)
        assert len(bank) == expected
