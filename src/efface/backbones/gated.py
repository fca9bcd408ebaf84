"""Gates meet a model: checked against the one they were fitted on, then hung on a view of it."""

from collections.abc import Sequence
from typing import Any

from efface.backbones.guided import Guided
from efface.backbones.layers import find
from efface.backbones.listen import Listener, stand
from efface.backbones.model import Model
from efface.core import EffaceError, Gate, same_base
from efface.gates import GUIDES, build
from efface.patch import Patch


def check_gates(model: Model, gates: Sequence[Gate]) -> None:
    """Refuse gates that another model's weights were read by."""
    networks = [gate for gate in gates if gate.kind not in GUIDES]  # the base is a guide's
    found = {site: model.reads(site) for site in {gate.site for gate in networks}}
    for gate in networks:
        if not same_base(gate.reads, found[gate.site]):
            raise EffaceError(
                f"the patch's gate at {gate.site} was fitted on weights {gate.reads} but the "
                f"model's are {found[gate.site]}: fit it again on this model"
            )


def check_mergeable(patches: Sequence[Patch]) -> None:
    """Refuse to write as weights what is none."""
    for patch in patches:
        if patch.gates:
            raise EffaceError(
                f"the patch that erases {patch.concept.name} has a gate at {patch.gates[0].site}, "
                "a network that runs beside the model and cannot be written into its weights or a "
                "LoRA: use the patch itself, with efface draw --patch or efface.apply"
            )


def attach(pipe: Any, model: Model, gates: Sequence[Gate]) -> None:
    """Hang networks on the modules of a pipeline, which `model` is of, gate by gate."""
    listeners = dict[str, Listener]()
    for gate in gates:
        component, _, name = gate.site.partition("/")
        if gate.kind in GUIDES:
            if component != model.component or name:
                raise EffaceError(f"a guide stands at {model.component}/, not at {gate.site}")
            Guided(build(gate)).hang(getattr(pipe, component))
            continue
        module: Any
        if component == model.component:
            module, listener = getattr(pipe, component).get_submodule(name), None
        else:
            layer = find(model.kind.encoders, model.text, gate.site)
            module, listener = layer.module, listeners.get(component)
            if listener is None:
                listener = listeners[component] = Listener(layer.encoder.span)
                listener.hang(layer.encoder.model)
        stand(module, [build(gate)], listener)
