import { CompareView } from "./compare/compare_view";
import { MakeView } from "./make/make_view";
import { ProblemNote } from "./parts/problem_note";
import { keyNeeded, key } from "./state/key";
import { ServerView } from "./server/server_view";
import { capabilities, connect, startProblem } from "./state/server";
import { view } from "./state/view";
import { words } from "./strings";
import { KeyForm } from "./top/key_form";
import { ServerAway } from "./top/server_away";
import { TopBar } from "./top/top_bar";
import { VectorsView } from "./vectors/vectors_view";

export function App() {
  return (
    <>
      <TopBar />
      <ServerAway />
      <main id="main" tabIndex={-1}>
        <View />
      </main>
    </>
  );
}

function View() {
  if (startProblem.value) return <CannotStart />;
  if (!capabilities.value) return <p class="loading">{words.loading}</p>;
  switch (view.value) {
    case "compare":
      return <CompareView />;
    case "vectors":
      return <VectorsView />;
    case "make":
      return <MakeView />;
    case "server":
      return <ServerView />;
  }
}

/** In place of a view: the server wants a key, or there is none. */
function CannotStart() {
  const wantsKey = keyNeeded.value;
  return (
    <section class="start card">
      <h2>{wantsKey ? words.key.title : words.errors.start}</h2>
      {wantsKey ? (
        <>
          {key.value && <p class="problem">{words.key.wrong}</p>}
          <KeyForm />
        </>
      ) : (
        <>
          <ProblemNote problem={startProblem.value!} />
          <button type="button" class="primary" onClick={() => void connect()}>
            {words.retry}
          </button>
        </>
      )}
    </section>
  );
}
