"""The registry: each name once, its code imported late, and a name that is not there is refused."""

import fractions
from typing import Literal

import pytest
from pydantic import ValidationError

from diffusability.errors import StudyError
from diffusability.study.core.registry import Registry
from diffusability.study.core.spec import Spec


class Shape(Spec):
    """What all shapes share."""


SHAPES: Registry[Shape] = Registry("shape", tag="form")


@SHAPES.add("fractions:Fraction")
class Round(Shape):
    form: Literal["circle", "disc"]
    radius: float = 1.0


@SHAPES.add("nowhere.at_all:Thing")
class Square(Shape):
    form: Literal["square"]
    side: float = 2.0


class Drawing(Spec):
    shape: SHAPES.field()  # type: ignore[valid-type]


def test_models_are_found_by_every_value_of_their_tag() -> None:
    assert dict(SHAPES) == {"circle": Round, "disc": Round, "square": Square}
    assert SHAPES["disc"] is Round


def test_a_field_is_read_by_its_tag() -> None:
    drawing = Drawing.model_validate({"shape": {"form": "square"}})
    assert drawing.shape == Square(form="square", side=2.0)
    with pytest.raises(ValidationError, match="side"):
        Drawing.model_validate({"shape": {"form": "circle", "side": 1.0}})


def test_code_is_imported_when_it_is_asked_for() -> None:
    assert SHAPES.code(Round(form="circle")) is fractions.Fraction
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        SHAPES.code(Square(form="square"))


def test_what_is_not_declared_is_refused_with_what_is() -> None:
    class Hexagon(Shape):
        form: Literal["hexagon"]

    with pytest.raises(StudyError, match="unknown shape `sqare`.*did you mean `square`"):
        SHAPES["sqare"]
    with pytest.raises(TypeError, match="declared: circle, disc, square"):
        SHAPES.code(Hexagon(form="hexagon"))


@pytest.mark.parametrize(
    ("form", "code", "message"),
    [
        (Literal["circle"], "a:b", "declared already"),
        (str, "a:b", "needs `form: Literal"),
        (Literal["new"], "a.b", "module:object"),
    ],
)
def test_a_wrong_declaration_is_refused(form: type, code: str, message: str) -> None:
    model = type("Wrong", (Shape,), {"__annotations__": {"form": form}})
    with pytest.raises(TypeError, match=message):
        SHAPES.add(code)(model)
