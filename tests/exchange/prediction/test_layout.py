import torch

from codistill.exchange.prediction.layout import PredictionLayout

LOGITS = torch.zeros(2, 9)


def test_tensors_of_all_widths_come_back_from_their_bytes():
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, dtype, shape in [
            ("a", torch.bfloat16, (3,)),
            ("b", torch.float64, (2, 1)),
            ("c", torch.int8, (5,)),
            ("d", torch.float32, ()),
            ("e", torch.float32, (0, 4)),
        ]
    }
    layout = PredictionLayout.of(tensors, logits=LOGITS)
    packed = layout.pack(tensors)
    assert packed.dtype == torch.uint8
    assert packed.shape == (layout.nbytes,)
    assert layout.nbytes == 3 * 2 + 2 * 8 + 5 + 4
    unpacked = layout.unpack(packed)
    assert unpacked.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert unpacked[name].dtype == tensor.dtype
        assert torch.equal(unpacked[name], tensor), name


def test_a_single_tensor_is_not_copied():
    tensors = {"logits": LOGITS.clone()}
    packed = PredictionLayout.of(tensors, logits=LOGITS).pack(tensors)
    assert packed.data_ptr() == tensors["logits"].data_ptr()


def test_layouts_differ_by_name_dtype_shape_and_the_shape_of_the_logits():
    def layout(name="a", dtype=torch.float32, shape=(2, 3), logits=LOGITS):
        return PredictionLayout.of({name: torch.zeros(shape, dtype=dtype)}, logits=logits)

    others = [
        layout(name="b"),
        layout(dtype=torch.int32),
        layout(shape=(3, 2)),
        layout(logits=torch.zeros(2, 8)),
    ]
    digests = {other.digest for other in (layout(), *others)}
    assert len(digests) == 5
    assert layout().digest == layout().digest
    assert all(0 <= digest < 2**63 for digest in digests)
