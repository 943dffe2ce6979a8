"""What a training step is fed: every clip once an epoch, in an order that seed and epoch alone decide."""
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.training.feeds import epoch_steps


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), size=st.integers(1, 40), views=st.integers(1, 4),
       seed=st.integers(0, 2**31), epoch=st.integers(1, 50), world=st.integers(1, 4))
def test_an_epochs_order_depends_on_seed_and_epoch_alone(count, size, views, seed, epoch, world):
    steps = epoch_steps(count, size, views, seed, epoch, world)
    clips = torch.cat([clips for clips, _ in steps])
    drawn = torch.cat([drawn for _, drawn in steps])
    assert sorted(clips.tolist()) == [*range(count)] and int(drawn.max()) < views
    assert all(len(clips) >= min(world, count) for clips, _ in steps)
    again = epoch_steps(count, size, views, seed, epoch, world)
    assert all(torch.equal(a, b) for one, two in zip(steps, again, strict=True)
               for a, b in zip(one, two, strict=True))
    other = epoch_steps(count, size // 2 + 1, views, seed, epoch)
    assert torch.equal(torch.cat([clips for clips, _ in other]), clips), "the batch size changes the order"
    if count > 20:
        following = epoch_steps(count, size, views, seed, epoch + 1, world)
        assert not torch.equal(torch.cat([clips for clips, _ in following]), clips)
