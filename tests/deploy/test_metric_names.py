"""What our PromQL names: read rightly, ours, and nobody else's. (That the names exist is asked of a
running server in tests/http/test_metric_names.py.)"""

from pathlib import Path

import pytest

from tests.deploy.expressions import (
    ELSEWHERE,
    KUBERNETES,
    Expression,
    as_rules,
    everything,
    recorded,
    rules,
    told_by_promtool,
    write_rules,
)
from tests.deploy.promql import Matcher, Selector, reads

CASES = [
    ("up", {"up"}, set()),
    ("vllm:num_requests_waiting", {"vllm:num_requests_waiting"}, set()),
    ('a{x="1", y=~"b{2}"} / b', {"a", "b"}, set()),
    ("rate(a[5m])", {"a"}, set()),
    ("sum by (le, x) (rate(a_bucket[5m]))", {"a_bucket"}, {"le", "x"}),
    ("sum(a) by (x)", {"a"}, {"x"}),
    ("sum without(x) (a)", {"a"}, {"x"}),
    ("SUM BY (x) (a)", {"a"}, {"x"}),
    ("a * on (x) group_left (y) b", {"a", "b"}, {"x", "y"}),
    ("a / ignoring(x) group_right b", {"a", "b"}, {"x"}),
    ("a == bool 1 and b unless c or d", {"a", "b", "c", "d"}, set()),
    ("max_over_time(a[5m:30s] offset 1h) > 1e-3", {"a"}, set()),
    ("a @ end() - b @ 1609746000", {"a", "b"}, set()),
    ("topk(3, -a) ^ 0x1F + 1.5 % .5 atan2 inf", {"a"}, set()),
    ('label_replace(a, "x", "$1", "y", "not_a_metric(.*)")', {"a"}, set()),
    ("a # not_this {\n + b", {"a", "b"}, set()),
    ('{__name__="a", x="1"}', {"a"}, set()),
    ("absent(up{job='x'}) or vector(0)", {"up"}, set()),
    ("by_itself + on_purpose + offsets", {"by_itself", "on_purpose", "offsets"}, set()),
    ('quantile by (x) (0.9, {__name__="a"})', {"a"}, {"x"}),
]


@pytest.mark.parametrize(("text", "names", "labels"), CASES, ids=[case[0] for case in CASES])
def test_names_and_labels(text: str, names: set[str], labels: set[str], tmp_path: Path) -> None:
    found = reads(text)
    assert {selector.name for selector in found.selectors} == names
    assert found.labels == labels
    path = write_rules(tmp_path, as_rules([Expression("case", text)]))
    status, said = told_by_promtool("check", "rules", path.name, cwd=tmp_path)
    assert status == 0, said


def test_matchers() -> None:
    (found,) = reads("""a{x="1",y!='b, c',z=~"d|e",} > 1""").selectors
    assert found == Selector(
        "a", (Matcher("x", "=", "1"), Matcher("y", "!=", "b, c"), Matcher("z", "=~", "d|e"))
    )


@pytest.mark.parametrize("text", ['{x="1"}', '{__name__=~"a|b"}', "a{x}", "a{", "a ; b", "a $ b"])
def test_what_it_cannot_read_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"no "):
        reads(text)


def test_promtool_reads_all_of_it(tmp_path: Path) -> None:
    path = write_rules(tmp_path, as_rules(everything()))
    status, said = told_by_promtool("check", "rules", path.name, cwd=tmp_path)
    assert status == 0, said


@pytest.mark.parametrize("expression", everything(), ids=lambda expression: expression.where)
def test_only_our_job_is_asked(expression: Expression) -> None:
    """vllm:*, http_requests_total and process_* are other servers' names too."""
    for selector in reads(expression.text).selectors:
        if selector.name in recorded() or selector.name in set(ELSEWHERE) - {"up"}:
            continue
        assert Matcher("job", "=", "steersman") in selector.matchers, selector.name


def test_others_metrics_keep_to_their_group() -> None:
    """So that everything else works where only our server is scraped."""
    for rule in rules():
        names = {selector.name for selector in reads(rule.text).selectors}
        if rule.group == KUBERNETES:
            assert names <= set(ELSEWHERE), rule.where
        else:
            assert names & set(ELSEWHERE) <= {"up"}, rule.where


def test_nothing_is_allowed_without_need() -> None:
    used = {selector.name for e in everything() for selector in reads(e.text).selectors}
    assert set(ELSEWHERE) <= used
    assert recorded() <= used


def test_a_name_is_recorded_once() -> None:
    names = [rule.records for rule in rules() if rule.records]
    assert len(names) == len(set(names))
    assert all(name.startswith("steersman:") for name in names)
