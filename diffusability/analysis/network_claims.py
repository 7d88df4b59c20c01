"""Verdicts on claims about learned curves, one for each network that learned them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from diffusability.analysis.claims import COLUMNS, Claim, check_claims, selected_rows


def check_by_network(
    claims: Sequence[Claim],
    tables: Mapping[str, pd.DataFrame],
    networks: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the verdict on every claim, by each network whose numbers it is to be judged on.

    Args:
        claims: as of ``load_claims``.
        tables: as of ``check_claims``; those of claims that networks decide have a column
            ``network``.
        networks: that judge every claim; by default those that have rows which a claim selects.

    Returns:
        The rows of ``check_claims`` with ``network`` in front, claim by claim; it is empty where
        a claim is judged on no network's numbers.
    """
    parts = [check_claims([], tables).assign(network="")]
    for claim in claims:
        table, there, own = tables.get(claim.table), [""], dict(tables)
        if table is not None and "network" in table:
            named = table["network"][selected_rows(table, claim)] if networks is None else networks
            there = list(dict.fromkeys(named)) or there
        for network in there:
            if table is not None and "network" in table:
                own[claim.table] = table[table["network"] == network]
            parts.append(check_claims([claim], own).assign(network=network))
    return pd.concat(parts, ignore_index=True)[["network", *COLUMNS]]
