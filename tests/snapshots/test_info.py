import torch

from codistill.snapshots.info import SnapshotInfo


def test_it_tells_what_the_manifest_says(make_manifest):
    weight = torch.zeros(2, 3)
    manifest, shards = make_manifest(
        {"weight": weight, "tied": weight, "count": torch.tensor(1)}, metadata={"arch": "mlp"}, finished=True
    )
    info = SnapshotInfo.from_manifest(manifest)
    assert (info.peer, info.incarnation, info.sequence) == ("a", 1, 2)
    assert (info.step, info.samples, info.task_loss, info.interval_steps) == (300, 9600, 0.5, 50)
    assert (info.codec, info.finished, info.metadata) == ("exact", True, {"arch": "mlp"})
    assert info.size_bytes == len(shards[0])
    assert info.tensors == {"weight": (2, 3), "tied": (2, 3), "count": ()}
