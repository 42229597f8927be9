"""The tables of layouts agree with the spec, and a format that an objective cannot learn from is refused."""

from __future__ import annotations

from finetune_operator.api.compatibility import Objective
from finetune_operator.api.inputs import FORMATS, Columns
from finetune_operator.api.layouts import LAYOUT_COLUMNS, OBJECTIVE_LAYOUTS, Layout, layouts_with


def test_the_formats_and_columns_of_a_spec_are_those_that_its_objectives_learn_from() -> None:
    learnt = {layout for objective in Objective for layout in OBJECTIVE_LAYOUTS[objective]}
    assert set(FORMATS) == learnt
    assert set(Columns.model_fields) == {column for layout in learnt for column in LAYOUT_COLUMNS[layout].all}


def test_every_layout_has_columns_and_an_objective() -> None:
    assert set(LAYOUT_COLUMNS) == set(Layout)
    assert {layout for layouts in OBJECTIVE_LAYOUTS.values() for layout in layouts} == set(Layout)


def test_the_layouts_of_a_column_are_found() -> None:
    assert layouts_with("anchor") == (Layout.TRIPLET, Layout.PAIR)
