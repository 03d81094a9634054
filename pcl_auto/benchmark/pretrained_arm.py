"""Begin arms with weights that have seen no test case, and pre-train those whose recipe asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pcl_auto.benchmark.test_cases import HeldOut
from pcl_auto.errors import Problem, format_names
from pcl_auto.nnunet.pretrained.find import FoundSource
from pcl_auto.planning.plan import Plan
from pcl_auto.recipe.settings import Contrast, Recipe
from pcl_auto.training.pretrain import pretrain
from pcl_auto.training.pretrain_record import BENCHMARK
from pcl_auto.training.pretrain_request import PretrainRequest, resolve_pretraining
from pcl_auto.training.pretrained_start import AUTO
from pcl_auto.training.request import TrainRequest
from pcl_auto.training.run_inputs import digest_of, used_cases
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import read_kept
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.run_record import RECORD


def refuse_seen_tests(sources: Iterable[FoundSource], held_out: HeldOut, plan: Plan) -> list[Problem]:
    """List pretrained weights that have seen images of test cases: those of `pclauto pretrain` say which they saw."""
    tests = {plan.cases[scan.id].digest for scan in held_out.scans if held_out.of_pool} | {*held_out.image_digests}
    problems = []
    for source in sources:
        record = read_kept(source.file.parent / RECORD, {"images": {...: str}}) or {"images": {}}
        if seen := sorted(case for case, digest in record["images"].items() if digest in tests):
            fix = "take --pretrained auto, or pre-train with a --split that leaves them out"
            what = "the weights have seen images of test cases"
            problems.append(
                Problem("benchmark.tests-seen", what, source.address, fix, "none of them", format_names(seen))
            )
    return problems


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
            recipe=replace(decisive, name=f"{BENCHMARK}{digest_of(decisive.as_dict())[:6]}"),
            cases=tuple(used_cases(request.split)),
            configuration=request.configuration,
        ),
        workspace,
    )
    with sole_writer(run.folder.with_name(f"{run.folder.name}.benchmark"), wait=True):
        pretrain(run, workspace, listener, device=request.device)
    return replace(request, pretrained=str(run.folder))
