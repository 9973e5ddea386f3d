"""Every metric and label that dashboard, rules and scaler name, in a scrape of the real server."""

from collections import defaultdict
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from steersman.server.metrics import METRICS
from tests.deploy.expressions import ELSEWHERE, TARGET_LABELS, Expression, everything, rules
from tests.deploy.promql import Selector, reads
from tests.support.http.client import Client

SELDOM = {("status", "5xx")}
"""Labels' values that a healthy server has no sample with."""

RECORDED = {rule.records: reads(rule.text).labels for rule in rules() if rule.records}
"""What recording rules make, and the labels that they group by."""


class Scrape:
    """What a server has: labels and their values, by name of the sample."""

    def __init__(self, text: str) -> None:
        self.values: dict[str, dict[str, set[str]]] = {}
        self.families: set[str] = set()
        for family in text_string_to_metric_families(text):
            self.families.add(family.name)
            for sample in family.samples:
                values = self.values.setdefault(sample.name, defaultdict(set))
                for label, value in sample.labels.items():
                    values[label].add(value)

    def labels(self, selector: Selector) -> set[str]:
        """The labels of what `selector` selects, which has to be there."""
        assert selector.name in self.values, selector.name
        here = self.values[selector.name]
        for matcher in selector.matchers:
            if matcher.label in TARGET_LABELS:
                continue
            assert matcher.label in here, (selector.name, matcher)
            if matcher.sign == "=" and (matcher.label, matcher.value) not in SELDOM:
                assert matcher.value in here[matcher.label], (selector.name, matcher)
        return set(here)


@pytest.fixture(scope="module")
def scrape(client: Client, make_vector: Callable[..., bytes]) -> Scrape:
    """After one request of each sort."""
    client.chat_text()
    assert client.upload(make_vector(4242), "scraped").status_code == 201
    assert client.chat(steering={"vectors": {"scraped": 1.0}}).status_code == 200
    assert client.chat(steering={"vectors": {"nobody": 1.0}}).status_code == 400
    assert client.http.get("/ready").status_code == 200
    assert client.http.delete("/v1/steering/vectors/scraped").status_code == 200
    found = Scrape(client.http.get("/metrics").text)
    # This server has no keys, so it has the metric and no sample of it; what a sample looks like
    # is seen here.
    assert "steering_key_requests" in found.families
    METRICS.key_requests.labels(key="somebody")
    here = Scrape(generate_latest(REGISTRY).decode())
    name = "steering_key_requests_total"
    found.values.setdefault(name, here.values[name])
    return found


@pytest.mark.parametrize("expression", everything(), ids=lambda expression: expression.where)
def test_names_and_labels_are_there(scrape: Scrape, expression: Expression) -> None:
    read = reads(expression.text)
    known = set(TARGET_LABELS)
    for selector in read.selectors:
        if selector.name in RECORDED:
            known |= RECORDED[selector.name]
        elif selector.name not in ELSEWHERE:
            known |= scrape.labels(selector)
    if not any(selector.name in ELSEWHERE for selector in read.selectors):
        assert read.labels <= known
