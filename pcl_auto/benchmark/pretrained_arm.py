"""Pre-train for an arm whose recipe begins with weights of its own data set, without a look at test cases."""

from __future__ import annotations

from dataclasses import replace

from pcl_auto.recipe.settings import Contrast, Recipe
from pcl_auto.training.pretrain import pretrain
from pcl_auto.training.pretrain_request import PretrainRequest, resolve_pretraining
from pcl_auto.training.pretrained_start import AUTO
from pcl_auto.training.request import TrainRequest
from pcl_auto.training.run_inputs import digest_of, used_cases
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer


def with_pretraining(request: TrainRequest, workspace: Workspace, listener: Listener) -> TrainRequest:
    """Return ``request`` with the weights that its recipe asks for, pre-trained on the images of its split.

    It is done once for all arms and draws with these images and these settings: no label has a part in it. So draws
    have the same weights to begin with, and differ in their labels and in what is drawn by their seed after that.

    Raises:
        PclautoError: see :func:`pcl_auto.training.pretrain.pretrain`.
    """
    recipe = request.recipe
    if not isinstance(recipe, Recipe) or request.split is None or recipe.pretrained.source != AUTO:
        return request
    decisive = Recipe(
        "",
        batch=recipe.batch,
        network=recipe.network,
        contrast=Contrast(head_convolutions=recipe.contrast.head_convolutions),
        pretraining=recipe.pretraining,
    )
    run = resolve_pretraining(
        PretrainRequest(
            dataset=request.dataset,
            recipe=replace(decisive, name=f"bench-{digest_of(decisive.as_dict())[:6]}"),
            cases=tuple(used_cases(request.split)),
            configuration=request.configuration,
        ),
        workspace,
    )
    with sole_writer(run.folder.with_name(f"{run.folder.name}.benchmark"), wait=True):
        pretrain(run, workspace, listener, device=request.device)
    return replace(request, pretrained=str(run.folder))
