"""Sentiment: VADER's compound score (Hutto and Gilbert, 2014). English only."""

from steersman.client.sweep.measures.measure import Measure, TextMeasure, needed, no_argument


def vader(argument: str) -> Measure:
    """-1, most negative, to 1, most positive."""
    no_argument("vader", argument)
    module = needed("vaderSentiment.vaderSentiment", "vaderSentiment", "the measure vader")
    analyser = module.SentimentIntensityAnalyzer()

    def sentiment(text: str) -> float:
        return float(analyser.polarity_scores(text)["compound"])

    return TextMeasure("VADER sentiment, -1 to 1", sentiment)
