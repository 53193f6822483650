// Validates objects of other projects' kinds against the schemas that @kubernetes-models generates from their CRDs.
//
// Run through `cargo xtask verify-manifests`. Reads a JSON list of objects and prints a JSON object with the complaints.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

// The packages lie in another folder than this script, where Node would not look for them.
const load = (path) => import(pathToFileURL(`${process.argv[3]}/node_modules/${path}.js`).href);

const KINDS = {
  "keda.sh/v1alpha1 ScaledObject": ["@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject", "ScaledObject"],
  "monitoring.coreos.com/v1 ServiceMonitor": [
    "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    "ServiceMonitor",
  ],
  "monitoring.coreos.com/v1 PodMonitor": [
    "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "PodMonitor",
  ],
  "monitoring.coreos.com/v1 PrometheusRule": [
    "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "PrometheusRule",
  ],
  "gateway.networking.k8s.io/v1 HTTPRoute": [
    "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
    "HTTPRoute",
  ],
};

const objects = JSON.parse(readFileSync(process.argv[2], "utf8"));
const complaints = [];
let checked = 0;
for (const object of objects) {
  const known = KINDS[`${object.apiVersion} ${object.kind}`];
  if (!known) continue;
  checked += 1;
  const [path, name] = known;
  try {
    const Model = (await load(path))[name];
    new Model(object).validate();
  } catch (error) {
    complaints.push(`${object.kind} ${object.metadata.name}: ${error.message}`);
  }
}
console.log(JSON.stringify({ checker: "@kubernetes-models", checked, complaints }));
