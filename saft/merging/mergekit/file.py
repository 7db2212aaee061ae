"""mergekit's merge file, the one that begins with `merge_method:`, as a merge file of saft's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from saft import config
from saft.errors import UserError, collecting, did_you_mean
from saft.files.checkpoint import model_config
from saft.files.locations import folder
from saft.merging.dtypes import DTYPES
from saft.merging.merge_config import MergeConfig
from saft.merging.mergekit.keys import OWN_KEYS, check_keys
from saft.merging.mergekit.method_table import MERGE_METHODS, MergeMethod, Parameter
from saft.merging.mergekit.references import NOT_HERE, location
from saft.merging.mergekit.slices import layers_taken, with_models
from saft.merging.methods import METHODS
from saft.merging.parameters import validate
from saft.merging.varying import is_constant, setting_problem

__all__ = ["read"]

_IGNORED = ("int8_mask",)  # decides what mergekit counts signs in, and changes no number


def read(mapping: Mapping[str, Any], where: str) -> tuple[MergeConfig, list[str]]:
    """Return mergekit's merge file as one of saft's.

    Weights, densities, signs and norms are those of mergekit, by the methods that are called `mergekit...`
    here. Beside mergekit's keys these of saft's are known: exclude, seed, shard_size and the like.

    Args:
        mapping: what the file holds.
        where: the file, for messages.

    Returns:
        The config, and notes: what is in the file and changes nothing.

    Raises:
        UserError: everything that mergekit does not know, or that saft does not do.

    Example:
        >>> text = {"merge_method": "ties", "base_model": "b", "models": [{"model": "a"}, {"model": "c"}]}
        >>> settings, notes = read(text | {"parameters": {"weight": 1, "density": 0.2}}, "ties.yaml")
        >>> settings.method, settings.models, settings.parameters["densities"]
        ('mergekit', ['a', 'c'], [0.2, 0.2])
    """
    check_keys(mapping, where)
    problems: list[str] = []
    layers, mapping = layers_taken(mapping), with_models(mapping)
    method = MERGE_METHODS[mapping["merge_method"]]
    base, models = _models(mapping, method, problems)
    places = [base, *(model["model"] for model in models)]
    if layers is not None and (problem := _layer_problem(layers, places)):
        problems.append(problem)
    settings = _Settings(mapping, method, base, models, problems)
    resolved = settings.resolved()
    dtypes = {key: _dtype(mapping.get(key)) for key in ("out_dtype", "dtype")}
    for key, word in dtypes.items():
        if word is not None and word not in [*DTYPES]:  # which anything can be asked, a list too
            problems.append(f"{key}: unknown '{word}'{did_you_mean(str(word), DTYPES)}")
    if problems:
        raise UserError(*(f"{where}: {problem}" for problem in dict.fromkeys(problems)))
    translated = {
        "method": method.method,
        "base": base,
        "models": [model["model"] for model in models],
        **resolved,
        "dtype": dtypes["out_dtype"] or dtypes["dtype"],
    }
    own = {key: mapping[key] for key in OWN_KEYS if key in mapping}
    given = [entry.get("parameters") or {} for entry in (mapping, *models)]
    notes = [
        f"{where}: {key} changes no number and is ignored" for key in _IGNORED if any(key in x for x in given)
    ]
    return config.parse(MergeConfig, translated | own, where), notes


def _models(
    mapping: Mapping[str, Any], method: MergeMethod, problems: list[str]
) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the base, and the models that are merged, in mergekit's order."""
    models: list[Mapping[str, Any]] = []
    given = mapping.get("models")
    if not isinstance(given, list) or not given:
        problems.append("models: must be a list of `model:` with `parameters:`")
        given = []
    for at, entry in enumerate(given):
        if not isinstance(entry, Mapping) or "model" not in entry:
            problems.append(f"models[{at}]: must be `model: FOLDER`, and `parameters:` if there are any")
            continue
        for key in entry:
            if key not in ("model", "parameters"):
                problems.append(
                    f"models[{at}]: unknown key '{key}'" + did_you_mean(key, ["model", "parameters"])
                )
        with collecting(problems, f"models[{at}].model: "):
            models.append({**entry, "model": location(entry["model"])})
    base = mapping.get("base_model")
    if base is not None:
        with collecting(problems, "base_model: "):
            base = location(base)
    elif method.needs_base:
        problems.append(f"base_model: {mapping['merge_method']} needs it: the model that all were made from")
    if base is None:
        return (models[0]["model"] if models else ""), models
    if not method.takes_base:
        others = [model for model in models if model["model"] != base]
        if models and not others:
            problems.append(f"models: are only the base, {base}; give those that are to be merged into it")
        return base, others
    if mapping["merge_method"] == "slerp":  # goes from the base, wherever that stands
        models.sort(key=lambda model: model["model"] != base)
    if all(model["model"] != base for model in models):
        models.append({"model": base})
        if mapping["merge_method"] == "slerp":
            models.insert(0, models.pop())
    return base, models


def _layer_problem(taken: int, locations: Sequence[str]) -> str | None:
    """Return which model has another number of layers than is taken of each, by its config.json, or None."""
    counts: dict[str, int] = {}
    for place in locations:
        with suppress(UserError, KeyError):  # what is no model is told when it is read
            config = model_config(folder(place.partition("+")[0], "slices"))
            counts[place] = config.get("num_hidden_layers") or config["n_layer"]
    if not counts:
        return "slices: no config.json of its models tells how many layers they have; give `models:`"
    other = next((place for place, count in counts.items() if count != taken), None)
    if other is None:
        return None
    return (
        f"slices: layer_range: [0, {taken}], but '{other}' has {counts[other]} layers: {NOT_HERE}; it merges "
        f"whole models: write [0, {counts[other]}], or give `models:`"
    )


@dataclass(frozen=True)
class _Settings:
    """What the file says of parameters; a model's own comes first, then that of all, then the default."""

    mapping: Mapping[str, Any]
    method: MergeMethod
    base: str
    models: Sequence[Mapping[str, Any]]
    problems: list[str]

    def resolved(self) -> dict[str, dict[str, Any]]:
        """Return the parameters that all tensors have, and those that differ from tensor to tensor."""
        self._check_names()
        settings_by_kind = {"parameters": dict(self.method.fixed), "varying": {}}
        if self.mapping.get("base_model") is not None:
            settings_by_kind["parameters"] |= self.method.with_base
        for name, parameter in self.method.per_model.items():
            settings = [self._setting(name, parameter, at) for at in range(len(self.models))]
            constant = all(is_constant(setting) for setting in settings)
            settings_by_kind["parameters" if constant else "varying"][parameter.name] = settings
        for name, parameter in self.method.general.items():
            setting = self._setting(name, parameter)
            settings_by_kind["parameters" if is_constant(setting) else "varying"][parameter.name] = setting
        return settings_by_kind

    def _check_names(self) -> None:
        everything = [*self.method.per_model, *self.method.general, *self.method.only, *_IGNORED]
        own = [*self.method.per_model, *_IGNORED]
        listed = self.mapping.get("models") or []
        places = [(entry, f"models[{at}].parameters", own) for at, entry in enumerate(listed)]
        for entry, place, known in [(self.mapping, "parameters", everything), *places]:
            given = entry.get("parameters") if isinstance(entry, Mapping) else None
            if given is not None and not isinstance(given, Mapping):
                self.problems.append(f"{place}: must hold `name: value` lines, but is {given!r}")
                continue
            for name, value in (given or {}).items():
                if name in self.method.only and value != self.method.only[name]:
                    self.problems.append(f"{place}.{name}: {value}: {NOT_HERE}")
                if name in everything and name not in known:
                    cure = "is one for all models: write it under the file's own `parameters:`"
                    self.problems.append(f"{place}.{name}: {cure}")
                elif name not in known:
                    method = self.mapping["merge_method"]
                    self.problems.append(
                        f"{place}.{name}: unknown to {method}" + did_you_mean(str(name), known)
                    )

    def _setting(self, name: str, parameter: Parameter, model: int | None = None) -> Any:
        """Return a parameter's setting, of a model or of all."""
        place = f"parameters.{name}"
        levels = [self.mapping.get("parameters")]
        if model is not None:
            levels.insert(0, self.models[model].get("parameters"))
        cases: list[Any] = []
        for level in levels:
            setting = _number(level.get(name)) if isinstance(level, Mapping) else None
            if setting is None:
                continue
            if problem := setting_problem(setting):
                self.problems.append(f"{place}: {problem}")
                return parameter.default
            filtered = isinstance(setting, list) and isinstance(setting[0], Mapping)
            cases += setting if filtered else [{"value": setting}]
        if parameter.default is not None:
            cases.append({"value": parameter.default})
        if not cases:
            whose = f" of models[{model}] ({self.models[model]['model']})" if model is not None else ""
            self.problems.append(
                f"{place}{whose}: is required by {self.mapping['merge_method']}, but missing"
            )
            return parameter.default
        cases = [case | {"value": _as(parameter.kind, case["value"])} for case in cases]
        for case in cases:
            values = case["value"] if isinstance(case["value"], list) else [case["value"]]
            wrong = (self._wrong(parameter, value) for value in values)
            self.problems.extend(f"{place}: {text}" for text in wrong if text)
        catches_all = [case.get("filter") in (None, "*") for case in cases]
        if catches_all[0]:
            return cases[0]["value"]
        return cases[: catches_all.index(True) + 1] if any(catches_all) else cases

    def _wrong(self, parameter: Parameter, value: Any) -> str | None:
        """Return what is wrong with a value, in words that do not name saft's parameter."""
        if isinstance(value, str):
            return f"must be {'true or false' if parameter.kind is bool else 'a number'}, but is {value!r}"
        declared = dataclasses.fields(METHODS.get(self.method.method))
        item = next(item for item in declared if item.name == parameter.name)
        text = validate(item, [value] if isinstance(item.default, tuple) else value)
        return text.removeprefix(f"{item.name}: ") if text else None


def _number(setting: Any) -> Any:
    """Return a setting with numbers that YAML took for text, such as 1e-6, as numbers."""
    if isinstance(setting, str):
        try:
            return float(setting)
        except ValueError:
            return setting
    if isinstance(setting, list):
        return [_number(entry) for entry in setting]
    if isinstance(setting, Mapping):
        return {key: _number(entry) if key == "value" else entry for key, entry in setting.items()}
    return setting


def _as(kind: type, value: Any) -> Any:
    """Return a value as a parameter wants it; mergekit takes 1 for true, and 10.0 for 10."""
    if kind is float or not isinstance(value, (bool, int, float)):
        return float(value) if isinstance(value, (bool, int)) else value
    return kind(value)


def _dtype(name: Any) -> Any:
    return name.removeprefix("torch.") if isinstance(name, str) else name
