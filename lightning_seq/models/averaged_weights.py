"""NT-ASGD's mean of the weights: used in validation, kept in checkpoints, left at the end of a training."""

from typing import Any

from lightning.pytorch import LightningModule

from lightning_seq.optimization import NTASGD


def show_mean(module: LightningModule, shown: bool) -> None:
    """Lets the parameters of a training hold the mean, where there is one, or the weights themselves."""
    if module.trainer.state.fn != "fit":
        return
    for optimizer in module.trainer.optimizers:
        if isinstance(optimizer, NTASGD) and optimizer.swapped != shown:
            optimizer.swap()


def put_into_checkpoint(checkpoint: dict[str, Any], entry: dict[str, Any], module: LightningModule) -> None:
    """Gives the checkpoint the mean as its weights, and ``entry`` those that training goes on from."""
    for i, optimizer in enumerate(module.trainer.optimizers):
        if not isinstance(optimizer, NTASGD) or not optimizer.averaging:
            continue
        names: dict[Any, str] = {parameter: name for name, parameter in module.named_parameters()}
        entry["training_weights"] = {}
        for parameter, mean in optimizer.averages().items():
            weights = optimizer.state[parameter]["average"] if optimizer.swapped else parameter.detach()
            checkpoint["state_dict"][names[parameter]] = mean
            entry["training_weights"][names[parameter]] = weights
        if "optimizer_states" in checkpoint:  # there are none where only weights are saved
            _as_if_not_swapped(checkpoint["optimizer_states"][i], optimizer)
    # a tied matrix has two names in a state_dict, and one in named_parameters
    _share_ties(checkpoint["state_dict"], entry.get("training_weights"), module)


def _as_if_not_swapped(saved: dict[str, Any], optimizer: NTASGD) -> None:
    for number, mean in enumerate(optimizer.averages().values()):
        saved["state"][number] = {**saved["state"][number], "average": mean}
    first, *others = saved["param_groups"]
    saved["param_groups"] = [{**first, "swapped": False}, *others]


def _share_ties(state: dict[str, Any], weights: dict[str, Any] | None, module: LightningModule) -> None:
    if weights is None:
        return
    first: dict[Any, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        known = first.setdefault(parameter, name)
        if known != name and known in weights:
            state[name], weights[name] = state[known], weights[known]


def take_from_checkpoint(checkpoint: dict[str, Any], entry: dict[str, Any]) -> None:
    """Lets training go on from the weights themselves."""
    if weights := entry.get("training_weights"):
        checkpoint["state_dict"].update(weights)
