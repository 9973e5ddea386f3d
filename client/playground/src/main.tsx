import { effect } from "@preact/signals";
import { render } from "preact";

import "./styles";
import { App } from "./app";
import { readLink } from "./state/compare/link";
import { watchSliders } from "./state/compare/again";
import { connect } from "./state/server";
import { steerSecondColumn } from "./state/compare/columns";
import { readView, view } from "./state/view";

const linked = readLink();
const page = document.getElementById("page")!;
page.replaceChildren();
render(<App />, page);

addEventListener("hashchange", () => {
  if (!readLink()) view.value = readView();
  else view.value = "compare";
});

watchSliders();
// As soon as there is a vector, which may be after a key was given.
if (!linked) effect(steerSecondColumn);
await connect();
