//! GPUs and the agents on their nodes.

use wharf_telemetry::metrics::dcgm::{ROW_REMAP_FAILURE, ROW_REMAP_PENDING};
use wharf_telemetry::metrics::node::{DEVICES, READY, XIDS};

use super::alert;
use crate::rule::{Alert, Severity};

pub(super) fn alerts() -> Vec<Alert> {
    let rows = |metric| format!("max by (node, gpu, UUID) ({metric}) > 0");
    vec![
        alert(
            "WharfGpuUnhealthy",
            Severity::Critical,
            "5m",
            format!(r#"max by (node, resource) ({DEVICES}{{state="unhealthy"}}) > 0"#),
            "{{ $value }} {{ $labels.resource }} of the node {{ $labels.node }} are not given to pods",
            "A GPU threw an error that is not a program's own, or does not answer. Pods that have it keep it.",
        ),
        alert(
            "WharfGpuNeedsReset",
            Severity::Critical,
            "1m",
            // The agent counts from its start, and a reset GPU has another agent.
            format!(r#"max by (node, UUID, xid) ({XIDS}{{class="reset"}}) > 0"#),
            "A GPU of the node {{ $labels.node }} has to be reset: XID {{ $labels.xid }}",
            "The GPU {{ $labels.UUID }} will not get well by itself.",
        ),
        alert(
            "WharfGpuMemoryFails",
            Severity::Warning,
            "5m",
            format!("{} or {}", rows(&ROW_REMAP_FAILURE), rows(&ROW_REMAP_PENDING)),
            "The memory of GPU {{ $labels.gpu }} of the node {{ $labels.node }} wears out",
            "Rows of its memory wait for a reset to be replaced, or could not be replaced any more.",
        ),
        alert(
            "WharfNodeAgentDegraded",
            Severity::Warning,
            "15m",
            format!("min by (node, part) ({READY}) == 0"),
            "The node agent of {{ $labels.node }} does not do its part {{ $labels.part }}",
            "Something that it needs is missing or was refused. Its /status says what, in words.",
        ),
    ]
}
