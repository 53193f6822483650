// Validates objects of other projects' kinds against the schemas that @kubernetes-models generates from their CRDs.
//
// Run through `cargo xtask verify-manifests`. Reads a JSON list of objects and prints a JSON object with the complaints.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// Resolved from the folder of installed packages, where this script does not lie.
const require = createRequire(`${process.argv[3]}/`);

const KINDS = {
  "keda.sh/v1alpha1 ScaledObject": ["@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject", "ScaledObject"],
  "monitoring.coreos.com/v1 ServiceMonitor": [
    "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    "ServiceMonitor",
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
    const Model = require(path)[name];
    new Model(object).validate();
  } catch (error) {
    complaints.push(`${object.kind} ${object.metadata.name}: ${error.message}`);
  }
}
console.log(JSON.stringify({ checker: "@kubernetes-models", checked, complaints }));
