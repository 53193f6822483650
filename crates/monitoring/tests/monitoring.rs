//! Whether what dashboards and alerts ask for exists, whether files are fresh, and whether each alert has a runbook and cases.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "monitoring/cases.rs"]
mod cases;
#[path = "monitoring/chart.rs"]
mod chart;
#[path = "monitoring/expressions.rs"]
mod expressions;
#[path = "monitoring/files.rs"]
mod files;
#[path = "monitoring/runbooks.rs"]
mod runbooks;
#[path = "monitoring/support.rs"]
mod support;
#[path = "monitoring/vocabulary.rs"]
mod vocabulary;
