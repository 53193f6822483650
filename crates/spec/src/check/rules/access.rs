//! Peers, addresses and persons.

use std::net::IpAddr;

use super::Findings;
use crate::LLMService;
use crate::service::ViewerKind;

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let access = &object.spec.access;
    for (index, peer) in access.allow_from.iter().enumerate() {
        let path = format!("spec.access.allowFrom[{index}]");
        let inside = peer.namespace.is_some() || peer.namespace_labels.is_some() || peer.pods.is_some();
        findings.require(
            inside != peer.cidr.is_some(),
            &path,
            "needs a namespace (by name or labels), pods, or a cidr",
        );
        findings.require(
            peer.namespace.is_none() || peer.namespace_labels.is_none(),
            &path,
            "has both namespace and namespaceLabels: choose one",
        );
        if let Some(cidr) = &peer.cidr {
            cidrs(std::slice::from_ref(cidr), &format!("{path}.cidr"), findings);
        }
    }
    for (index, peer) in access.allow_to.iter().enumerate() {
        let path = format!("spec.access.allowTo[{index}]");
        findings.require(
            peer.namespace.is_some() != peer.cidr.is_some(),
            &path,
            "needs either a namespace or a cidr",
        );
        if let Some(cidr) = &peer.cidr {
            cidrs(std::slice::from_ref(cidr), &format!("{path}.cidr"), findings);
        }
    }
    cidrs(&access.egress_cidrs, "spec.access.egressCIDRs", findings);
    for (index, viewer) in access.viewers.iter().enumerate() {
        let path = format!("spec.access.viewers[{index}].namespace");
        let fits = viewer.namespace.is_none() || viewer.kind == ViewerKind::ServiceAccount;
        findings.require(fits, &path, "belongs to a ServiceAccount only");
    }
}

/// Each must be an address with the length of its prefix.
pub(super) fn cidrs(texts: &[String], path: &str, findings: &mut Findings<'_>) {
    for (index, text) in texts.iter().enumerate() {
        let path = if path.ends_with(".cidr") { path.to_owned() } else { format!("{path}[{index}]") };
        let message = format!("{text:?} is not a range of addresses, such as 10.0.0.0/8 or fd00::/8");
        findings.require(is_cidr(text), &path, message);
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => length <= 128,
        _ => false,
    }
}
