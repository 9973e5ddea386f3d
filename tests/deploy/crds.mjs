// Validates custom resources by the validators that @kubernetes-models publishes.
//
//   node crds.mjs NODE_MODULES <resources.json      prints a list of errors for each resource
//
// Those validators pass over keys that no schema has. The API server would drop them, and what they were to do would
// not be done, so they are errors here: the resource is handed over in a wrapper that notes which keys are asked for.
// An object of which any key was asked for has a schema, and every key in it that was not is unknown.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const KEDA = "@kubernetes-models/keda/_schemas/ComGithubKedacoreKedaV2ApisKedaV1alpha1";
const PROMETHEUS =
  "@kubernetes-models/prometheus-operator/_schemas/" +
  "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1";
const GATEWAY = "@kubernetes-models/gateway-api/_schemas/IoK8sSigsGatewayApiApisV1";
const SCHEMAS = {
  "gateway.networking.k8s.io/v1 HTTPRoute": GATEWAY,
  "keda.sh/v1alpha1 ScaledObject": KEDA,
  "keda.sh/v1alpha1 TriggerAuthentication": KEDA,
  "monitoring.coreos.com/v1 PodMonitor": PROMETHEUS,
  "monitoring.coreos.com/v1 PrometheusRule": PROMETHEUS,
  "monitoring.coreos.com/v1 ServiceMonitor": PROMETHEUS,
};

function watched(value, path, notes) {
  if (value === null || typeof value !== "object") return value;
  const asked = new Set();
  const children = {};
  for (const key of Object.keys(value)) children[key] = watched(value[key], `${path}/${key}`, notes);
  notes.push({ path, asked, keys: Object.keys(value), list: Array.isArray(value) });
  return new Proxy(Array.isArray(value) ? Object.assign([], children) : children, {
    get(target, key) {
      asked.add(key);
      return target[key];
    },
    has(target, key) {
      asked.add(key);
      return key in target;
    },
  });
}

async function errors(resource, modules) {
  const kind = `${resource.apiVersion} ${resource.kind}`;
  if (!(kind in SCHEMAS)) return [`no published schema of ${kind} is known here`];
  const file = pathToFileURL(`${modules}/${SCHEMAS[kind]}${resource.kind}.js`);
  const { validate } = await import(file);
  const notes = [];
  const found = [];
  if (!validate(watched(resource, "", notes))) {
    found.push(...validate.errors.map((e) => `${e.instancePath || "/"}: ${e.message ?? e.keyword} ${JSON.stringify(e.params)}`));
  }
  for (const { path, asked, keys, list } of notes) {
    if (list || asked.size === 0) continue;
    found.push(...keys.filter((key) => !asked.has(key)).map((key) => `${path}/${key}: no such key`));
  }
  return found;
}

const [modules] = process.argv.slice(2);
const resources = JSON.parse(readFileSync(0, "utf8"));
const all = [];
for (const resource of resources) all.push(await errors(resource, modules));
console.log(JSON.stringify(all));
