"""What exists under a name: options models told apart by a tag, and the code of each."""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import Field, GetCoreSchemaHandler

from diffusability.errors import StudyError
from diffusability.lazy import load_code
from diffusability.study.core.problems import nearest
from diffusability.study.core.spec import Spec

Base = TypeVar("Base", bound=Spec)
Model = TypeVar("Model", bound=Spec)


class Registry(Mapping[str, type[Base]], Generic[Base]):
    """The options models of one kind of entry, by the value of their tag.

    An entry is declared where its options are, with the path of its code. The code is imported
    when it is first needed, so that a study can be read without torch:

        @REGULARIZERS.add("diffusability.tokenizers.regularizers.repa:RepaLoss")
        class Repa(Regularizer):
            method: Literal["repa"]

    As the annotation of a field it takes any of the models: `Annotated[Regularizer, REGULARIZERS]`.
    """

    def __init__(self, what: str, tag: str) -> None:
        """Start empty.

        Args:
            what: one entry, for messages, for example `regularizer`.
            tag: the field that tells the models apart, for example `method`.
        """
        self.what, self.tag = what, tag
        self._models: dict[str, type[Base]] = {}
        self._code: dict[type[Spec], str] = {}

    def add(self, code: str) -> Callable[[type[Model]], type[Model]]:
        """Return a class decorator that declares a model.

        Args:
            code: `module:object` that the options are for.

        Raises:
            TypeError: the model has no tag of fixed values, or one that is taken.
        """

        def declare(model: type[Model]) -> type[Model]:
            field = model.model_fields.get(self.tag)
            names = get_args(field.annotation) if field else ()
            if not names or code.count(":") != 1:
                raise TypeError(
                    f"{model.__name__}: a {self.what} needs `{self.tag}: Literal[...]` "
                    "and its code as `module:object`"
                )
            for name in names:
                if name in self._models:
                    raise TypeError(f"{model.__name__}: {self.what} `{name}` is declared already")
                self._models[name] = model  # type: ignore[assignment]
            self._code[model] = code
            return model

        return declare

    def __getitem__(self, name: str) -> type[Base]:
        """Return the model of a tag's value.

        Raises:
            StudyError: nothing is declared under that name; the message names the nearest.
        """
        try:
            return self._models[name]
        except KeyError:
            raise StudyError(
                f"unknown {self.what} `{name}` ({nearest(name, self._models)})"
            ) from None

    def __contains__(self, name: object) -> bool:
        """Return whether a name is declared."""
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order of their declaration."""
        return iter(self._models)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._models)

    def __eq__(self, other: object) -> bool:
        """Return whether it is this registry; two are never equal."""
        return self is other

    def __hash__(self) -> int:
        """Hash by identity: annotations of types are hashed."""
        return id(self)

    def code(self, spec: Spec) -> Any:
        """Import and return the object that the options of `spec` are for.

        Raises:
            TypeError: the model is not declared here.
        """
        if type(spec) not in self._code:
            raise TypeError(
                f"{type(spec).__name__} is not a declared {self.what}; declared: {', '.join(self)}"
            )
        return load_code(self._code[type(spec)])

    def models(self) -> list[type[Base]]:
        """Return the models, each once, in the order of their declaration."""
        return list(dict.fromkeys(self._models.values()))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Let pydantic validate a field that is annotated with the registry."""
        return handler.generate_schema(self.field())

    def modules(self) -> list[str]:
        """Return the modules that hold the code of the entries, each once."""
        return list(dict.fromkeys(code.partition(":")[0] for code in self._code.values()))

    def field(self) -> Any:
        """Return the type of a pydantic field that holds any of the models, told apart by tag."""
        models = self.models()
        if len(models) == 1:
            return models[0]
        return Annotated[reduce(or_, models), Field(discriminator=self.tag)]
