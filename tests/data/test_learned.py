"""What weights have learned: through any number of runs, and nothing else."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcn.base.cli import UserError
from lrcn.data.learned import Learned, leaked
from lrcn.data.manifest import SampledVideo

VIDEOS = [SampledVideo(f"{group}_{i}", cls, group) for cls in "AB" for group in "xyzw" for i in range(2)]
LINKS = st.lists(st.tuples(st.sets(st.sampled_from(VIDEOS)), st.booleans()), max_size=4)


@given(LINKS, st.sets(st.sampled_from(VIDEOS)))
def test_a_chain_of_trainings_knows_their_videos_and_groups_and_no_others(links, mine):
    learned = Learned()
    for videos, frozen in links:
        learned = Learned.of(learned.after(videos, frozen).state(), "x")
    for marks, seen in ((learned.network, [v for videos, _ in links for v in videos]),
                        (learned.encoder, [v for videos, frozen in links if not frozen for v in videos])):
        groups = {v.group for v in seen}
        assert leaked(VIDEOS, marks) == [v for v in VIDEOS if v.group in groups]
        own = groups - {v.group for v in mine}      # a split that cuts a group is the split's own affair
        assert leaked(VIDEOS, marks, mine) == [v for v in VIDEOS if v in seen or v.group in own]
    assert not (learned | Learned(known=False)).known
    with pytest.raises(UserError, match="learned"):
        Learned.of({"encoder": [True], "network": [], "known": True}, "x")
