"""Settings of a Trainer with which codistillation would be wrong, or silent."""

from transformers import Trainer

from codistill.exchange.base import Exchange


def check_settings(trainer: Trainer, exchange: Exchange) -> None:
    """Refuse what does not go together, before anything is trained.

    Args:
        trainer: As its constructor has left it.
        exchange: Its peer's.

    Raises:
        ValueError: If a setting does not go with codistillation; the message has the one to change.
    """
    args = trainer.args
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            "deepspeed must be off for codistillation, got a DeepSpeed configuration: its engine keeps "
            "weights where no snapshot can be taken. Train with DDP, or with fsdp and version 2."
        )
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    version = getattr(plugin, "fsdp_version", 1)
    if (plugin is not None and version != 2) or (args.fsdp and plugin is None):
        raise ValueError(
            f"fsdp must be of version 2 for codistillation, got version {version}: the flat parameters of "
            "FSDP1 have no names of their own. Set fsdp_config={'version': 2}, or fsdp_version: 2 for "
            "accelerate launch."
        )
    if args.use_liger_kernel:
        raise ValueError(
            "use_liger_kernel must be False for codistillation, got True: its fused loss leaves no logits to "
            "compare with a teacher's. Turn it off."
        )
    if args.auto_find_batch_size:
        raise ValueError(
            "auto_find_batch_size must be False for codistillation, got True: it starts the training over in "
            "the middle of a run that other peers are reading. Set per_device_train_batch_size."
        )
    if args.save_on_each_node:
        raise ValueError(
            "save_on_each_node must be False for codistillation, got True: rank 0 saves the codistiller's "
            "state for all ranks. Let output_dir be a folder that all nodes see."
        )
    parallelism = trainer.accelerator.parallelism_config
    sizes = {name: getattr(parallelism, name, 1) or 1 for name in ("tp_size", "cp_size", "sp_size")}
    sizes["tp_size"] = max(sizes["tp_size"], getattr(trainer.model, "_tp_size", None) or 1)
    for name, size in sizes.items():
        if size > 1:
            raise ValueError(
                f"{name} must be 1 for codistillation, got {size}: several ranks would see one batch, and "
                "count it each. Divide the data only (DDP or FSDP2)."
            )
    if exchange.is_collective and args.world_size > 1:
        raise ValueError(
            f"exchange must not swap predictions in the Trainer's own world, got {args.world_size} ranks: "
            "the Trainer averages the gradients of all of them, which makes them one model. Start each peer "
            "as a job of its own with a CheckpointExchange, or write the loop yourself."
        )
