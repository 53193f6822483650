//! Ways to a service, and what goes only through the gateway.

use super::Findings;
use crate::LLMService;
use crate::service::{ExposeType, Strategy};

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let spec = &object.spec;
    let expose = &spec.expose;
    if expose.direct {
        let behind_the_gateway = [
            (
                spec.scaling.min == 0,
                "spec.scaling.min",
                "0 needs the gateway to hold requests while the service wakes",
            ),
            (spec.access.api_keys.is_some(), "spec.access.apiKeys", "keys are checked by the gateway"),
            (spec.access.limits.is_some(), "spec.access.limits", "limits are kept by the gateway"),
            (
                spec.rollout.strategy == Strategy::Canary,
                "spec.rollout.strategy",
                "Canary needs the gateway to divide traffic",
            ),
        ];
        for (given, path, why) in behind_the_gateway {
            findings.require(!given, path, format!("{why}, which expose.direct leaves out: set it to false"));
        }
    }
    let kind = expose.kind;
    let belongs = [
        ("gateway", expose.gateway.is_some(), kind == ExposeType::HTTPRoute, "HTTPRoute"),
        ("ingressClass", expose.ingress_class.is_some(), kind == ExposeType::Ingress, "Ingress"),
    ];
    for (field, given, fits, owner) in belongs {
        findings.require(!given || fits, &format!("spec.expose.{field}"), format!("belongs to type {owner}"));
    }
    findings.require(
        kind != ExposeType::HTTPRoute || expose.gateway.is_some(),
        "spec.expose.gateway",
        "is required for an HTTPRoute: the gateway that it belongs to",
    );
    let routed = matches!(kind, ExposeType::Ingress | ExposeType::HTTPRoute);
    let host = expose.host.as_deref();
    findings.require(
        kind != ExposeType::Ingress || host.is_some_and(|host| !host.is_empty()),
        "spec.expose.host",
        "is required for an Ingress: the name that it answers for",
    );
    findings.require(host.is_none() || routed, "spec.expose.host", "belongs to type Ingress or HTTPRoute");
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        findings.require(is_host(host), "spec.expose.host", format!("{host:?} is not a host name"));
    }
    if kind != ExposeType::ClusterIP && spec.access.api_keys.is_none() {
        findings.warning(
            "spec.expose.type",
            "anybody outside the cluster may call: set access.apiKeys, or keep others out before the service",
        );
    }
}

/// A host name as RFC 1123 has it, maybe with a wildcard in front.
fn is_host(host: &str) -> bool {
    let labels = host.strip_prefix("*.").unwrap_or(host).split('.');
    let fits = |label: &str| {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(ok)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && labels.into_iter().all(fits)
}
