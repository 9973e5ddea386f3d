"""What tests do on the page, by the names that its users see."""

from typing import Any, Self

from playwright.sync_api import Locator, Page, expect


class Playground:
    """The page at `/playground`."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, fragment: str = "") -> Self:
        """Open it, and wait until the server's vectors are there."""
        self.page.goto(f"/playground{fragment}")
        expect(self.page.get_by_role("textbox", name="Message")).to_be_visible()
        return self

    def show(self, view: str) -> None:
        """Open one of the views."""
        self.page.get_by_role("button", name=view, exact=True).first.click()

    def say(self, text: str, tokens: int = 24) -> None:
        """Send a message to all columns."""
        self.page.get_by_label("Max tokens").fill(str(tokens))
        self.page.get_by_role("textbox", name="Message").fill(text)
        self.page.get_by_role("button", name="Send", exact=True).click()

    def wait(self) -> None:
        """Wait until no answer is being written."""
        expect(self.page.get_by_role("button", name="Send", exact=True)).to_be_visible()

    def answers(self) -> list[str]:
        """The texts of the answers to the last message, column by column."""
        found = self.page.locator("article.turn").last.locator(".answer-text")
        return [found.nth(n).inner_text() for n in range(found.count())]

    def answer(self, column: int) -> Locator:
        """The last answer of a column, counted from 0, with its receipt."""
        return self.page.locator("article.turn").last.locator("section.answer").nth(column)

    def slider(self, vector: str) -> Locator:
        """The slider of a vector in the selected column."""
        return self.page.get_by_role("slider", name=f"Coefficient of {vector}")

    def set_slider(self, vector: str, value: float) -> None:
        """Type a coefficient beside the slider."""
        self.page.get_by_role("spinbutton", name=f"Coefficient of {vector}").fill(f"{value:g}")

    def copied(self, column: str, form: str) -> str:
        """What the dialog shows for a form of "Copy as"."""
        self.page.get_by_role("button", name=f"Copy as: {column}", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("tab", name=form, exact=True).click()
        text: str = dialog.locator(".copy-text").inner_text()
        self.page.keyboard.press("Escape")
        return text

    def hint(self, column: str, form: str) -> str:
        """What the dialog says to a form of "Copy as"."""
        self.page.get_by_role("button", name=f"Copy as: {column}", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("tab", name=form, exact=True).click()
        text: str = dialog.get_by_role("tabpanel").inner_text()
        self.page.keyboard.press("Escape")
        return text

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, which the page's Content-Security-Policy does not concern."""
        session = self.page.context.new_cdp_session(self.page)
        answer = session.send(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True},
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")
