//! The server's certificate and the authority that signs it: when which of them is renewed. Decides; the Secret that holds them is read and
//! written in [`secret`].
//!
//! The API server trusts the authority by the `caBundle` of an APIService. A new authority is therefore first shown beside the old one, and signs
//! at the next look, when the bundle has it.

pub(crate) mod secret;

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

const DAY: u64 = 24 * 60 * 60;
/// How long a certificate holds, and how long before its end it is renewed.
const LEAF: u64 = 90 * DAY;
const LEAF_LEFT: u64 = 30 * DAY;
/// The same of an authority.
const AUTHORITY: u64 = 10 * 365 * DAY;
const AUTHORITY_LEFT: u64 = 365 * DAY;
/// Clocks of a cluster may differ by this.
const SKEW: u64 = 60 * 60;

/// Certificates and keys, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Authorities, the one that signs first.
    pub(crate) authorities: String,
    pub(crate) authority_key: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Certificate,
    Authority,
    /// There is nothing that can be used.
    Both,
}

/// Why no certificate can be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to issue a certificate")]
pub(crate) struct IssueError(#[from] rcgen::Error);

/// What is to be made at `now`, in seconds since 1970, of a server with these names.
pub(crate) fn due(keys: Option<&Keys>, names: &[String], now: u64) -> Due {
    let Some(keys) = keys else { return Due::Both };
    let (Some(authority), Some(leaf)) = (first(&keys.authorities), first(&keys.certificate)) else {
        return Due::Both;
    };
    let (Ok(authority), Ok(leaf)) = (authority.parse_x509(), leaf.parse_x509()) else { return Due::Both };
    if KeyPair::from_pem(&keys.authority_key).is_err() || KeyPair::from_pem(&keys.key).is_err() {
        return Due::Both;
    }
    if left(&authority, now) == 0 {
        Due::Both
    } else if left(&authority, now) < AUTHORITY_LEFT {
        Due::Authority
    } else if left(&leaf, now) < LEAF_LEFT || leaf.issuer() != authority.subject() || !has(&leaf, names) {
        Due::Certificate
    } else {
        Due::Nothing
    }
}

/// Makes what is due. What is not, stays.
///
/// # Errors
/// When the library refuses.
pub(crate) fn issue(keys: Option<Keys>, due: Due, names: &[String], now: u64) -> Result<Keys, IssueError> {
    match (due, keys) {
        (Due::Nothing, Some(keys)) => Ok(keys),
        (Due::Certificate, Some(keys)) => {
            let (certificate, key) = leaf(&keys.authorities, &keys.authority_key, names, now)?;
            Ok(Keys { certificate, key, ..keys })
        }
        (Due::Authority, Some(keys)) => {
            let (authority, authority_key) = authority(now)?;
            // Of the old ones, the last is enough: what it signed is served until the next look.
            let authorities = format!("{}\n{}\n", authority.trim_end(), first_text(&keys.authorities));
            Ok(Keys { authorities, authority_key, ..keys })
        }
        (_, None) | (Due::Both, Some(_)) => {
            let (authorities, authority_key) = authority(now)?;
            let (certificate, key) = leaf(&authorities, &authority_key, names, now)?;
            Ok(Keys { authorities, authority_key, certificate, key })
        }
    }
}

/// When the certificate ends, in seconds since 1970.
pub(crate) fn ends(keys: &Keys) -> Option<u64> {
    let leaf = first(&keys.certificate)?;
    let leaf = leaf.parse_x509().ok()?;
    u64::try_from(leaf.validity().not_after.timestamp()).ok()
}

fn first(pem: &str) -> Option<Pem> {
    Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()
}

/// The first certificate's own lines.
fn first_text(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----";
    pem.find(END).map_or("", |end| pem[..end + END.len()].trim_start())
}

fn left(certificate: &X509Certificate<'_>, now: u64) -> u64 {
    u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0).saturating_sub(now)
}

fn has(certificate: &X509Certificate<'_>, names: &[String]) -> bool {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
    let known = &alternatives.value.general_names;
    names
        .iter()
        .all(|name| known.iter().any(|known| matches!(known, GeneralName::DNSName(known) if known == name)))
}

/// Certificate and key of a new authority.
fn authority(now: u64) -> Result<(String, String), IssueError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    // Told apart by name: a leaf says by whom it was signed.
    params.distinguished_name.push(DnType::CommonName, format!("wharf-metrics-api-{now}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    between(&mut params, now, AUTHORITY);
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Certificate and key of a server.
fn leaf(
    authority: &str,
    authority_key: &str,
    names: &[String],
    now: u64,
) -> Result<(String, String), IssueError> {
    let issuer = Issuer::from_ca_cert_pem(authority, KeyPair::from_pem(authority_key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "wharf-metrics-api");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    between(&mut params, now, LEAF);
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

fn between(params: &mut CertificateParams, now: u64, seconds: u64) {
    let began = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_sub(SKEW));
    params.not_before = began;
    params.not_after = began + Duration::from_secs(SKEW + seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn names() -> Vec<String> {
        vec!["wharf-metrics-api.wharf-system.svc".to_owned()]
    }

    fn fresh() -> Keys {
        issue(None, Due::Both, &names(), NOW).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_a_month_before_it_ends() {
        let keys = fresh();
        assert_eq!(due(Some(&keys), &names(), NOW), Due::Nothing);
        assert_eq!(due(Some(&keys), &names(), NOW + 59 * DAY), Due::Nothing);
        assert_eq!(due(Some(&keys), &names(), NOW + 61 * DAY), Due::Certificate);
        let renewed = issue(Some(keys.clone()), Due::Certificate, &names(), NOW + 61 * DAY).unwrap();
        assert_eq!(renewed.authorities, keys.authorities, "whoever trusts it need not learn anything");
        assert_eq!(ends(&renewed), Some(NOW + 151 * DAY));
    }

    #[test]
    fn a_new_authority_is_shown_beside_the_old_one_before_it_signs() {
        let keys = fresh();
        let late = NOW + AUTHORITY - AUTHORITY_LEFT + DAY;
        let keys = issue(Some(keys), Due::Certificate, &names(), late).unwrap();
        assert_eq!(due(Some(&keys), &names(), late), Due::Authority);
        let both = issue(Some(keys.clone()), Due::Authority, &names(), late).unwrap();
        assert!(
            both.authorities.trim_end().ends_with(first_text(&keys.authorities))
                && both.authorities != keys.authorities
        );
        assert_eq!(both.certificate, keys.certificate);
        assert_eq!(due(Some(&both), &names(), late), Due::Certificate);
        let signed = issue(Some(both.clone()), Due::Certificate, &names(), late).unwrap();
        assert_eq!(due(Some(&signed), &names(), late), Due::Nothing);
    }

    #[test]
    fn a_certificate_for_other_names_is_made_anew() {
        let other = vec!["other.wharf-system.svc".to_owned()];
        assert_eq!(due(Some(&fresh()), &other, NOW), Due::Certificate);
    }

    #[test]
    fn what_cannot_be_read_is_made_anew() {
        let keys = fresh();
        for broken in [
            Keys { certificate: "x".to_owned(), ..keys.clone() },
            Keys { authorities: String::new(), ..keys.clone() },
            Keys { authority_key: String::new(), ..keys.clone() },
            Keys { key: "-----BEGIN PRIVATE KEY-----".to_owned(), ..keys },
        ] {
            assert_eq!(due(Some(&broken), &names(), NOW), Due::Both);
        }
        assert_eq!(due(Some(&fresh()), &names(), NOW + AUTHORITY + DAY), Due::Both);
    }
}
