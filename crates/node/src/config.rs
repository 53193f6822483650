//! The node agent's configuration: one file, every field with a default. What changes a node beyond advertising its GPUs has to be asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a node agent works.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NodeConfig {
    /// NVML's library; what the loader finds (`libnvidia-ml.so.1`) if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml: Option<PathBuf>,
    /// Where things of the host are.
    pub paths: Paths,
    /// Advertising GPUs to kubelet.
    pub plugin: PluginConfig,
    /// When a GPU counts as broken, and when no longer.
    pub health: HealthConfig,
    /// Labels and taint of the node.
    pub labels: LabelsConfig,
    /// Metrics.
    pub exporter: ExporterConfig,
    /// Settings of the GPUs.
    pub tuning: TuningConfig,
    /// Commands that bring to the node what its pods will want, such as models. One after the other, each until it has succeeded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preload: Vec<Preload>,
}

/// A command that brings something to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preload {
    /// What the status calls it.
    pub name: String,
    /// The program and its arguments, such as `[wharf, fetch, hf://…, -o, /models/…]`.
    pub command: Vec<String>,
}

/// Where things of the host are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Paths {
    /// Kubelet's folder of device plugins' sockets.
    pub device_plugins: PathBuf,
    /// Kubelet's folder of other plugins, where a driver for dynamic resource allocation would be.
    pub plugins: PathBuf,
    /// Kubelet's socket that tells which pod has which device.
    pub pod_resources: PathBuf,
    /// The kernel's `/sys`.
    pub sysfs: PathBuf,
    /// The kernel's `/proc`.
    pub proc: PathBuf,
    /// Device files, to see which there are.
    pub dev: PathBuf,
    /// What has to outlive the agent: the settings that GPUs had before they were tuned.
    pub state: PathBuf,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            device_plugins: "/var/lib/kubelet/device-plugins".into(),
            plugins: "/var/lib/kubelet/plugins".into(),
            pod_resources: "/var/lib/kubelet/pod-resources/kubelet.sock".into(),
            sysfs: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            state: "/var/lib/wharf/node-agent".into(),
        }
    }
}

/// Advertising GPUs to kubelet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PluginConfig {
    /// Whether they are. Labels and metrics do without.
    pub enabled: bool,
    /// What becomes of GPUs that MIG has split.
    pub mig: MigStrategy,
    /// GPUs that several containers share by turns.
    pub sharing: Vec<Sharing>,
    /// How a container is told which GPUs are its own.
    pub device_list: Vec<DeviceList>,
    /// How GPUs are named to NVIDIA's container runtime.
    pub device_ids: DeviceIds,
    /// Kind of the CDI devices, as in the specification that `nvidia-ctk cdi generate` or `nvidia-cdi-refresh` writes.
    pub cdi_kind: String,
    /// Which of shared GPUs, or of parts, is preferred.
    pub preference: Preference,
}

impl Default for PluginConfig {
    fn default() -> PluginConfig {
        PluginConfig {
            enabled: true,
            mig: MigStrategy::None,
            sharing: Vec::new(),
            device_list: vec![DeviceList::Environment],
            device_ids: DeviceIds::Uuid,
            cdi_kind: "nvidia.com/gpu".to_owned(),
            preference: Preference::Distributed,
        }
    }
}

/// What becomes of GPUs that MIG has split, as NVIDIA's device plugin has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MigStrategy {
    /// Every GPU is `nvidia.com/gpu`, split or not.
    #[default]
    None,
    /// All are split into parts of one profile, and those are `nvidia.com/gpu`.
    Single,
    /// Parts are `nvidia.com/mig-<profile>`, GPUs that are not split `nvidia.com/gpu`.
    Mixed,
}

/// A resource whose devices several containers share by turns. They see each other's load, and nothing divides the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sharing {
    /// `nvidia.com/gpu` or `nvidia.com/mig-…`.
    pub resource: String,
    /// How many containers share a device; at least two.
    pub replicas: u32,
    /// Whether the resource is then called `….shared`, so that nobody gets a shared one unasked.
    #[serde(default)]
    pub rename: bool,
    /// Whether a container that asks for more than one is refused: it would gain nothing.
    #[serde(default = "yes")]
    pub refuse_more_than_one: bool,
}

fn yes() -> bool {
    true
}

/// How a container is told which GPUs are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeviceList {
    /// `NVIDIA_VISIBLE_DEVICES`, for NVIDIA's container runtime.
    Environment,
    /// Device files, which kubelet's CPU manager does not take away again.
    DeviceSpecs,
    /// CDI devices through the container runtime interface (kubelet 1.31, containerd 1.7).
    Cdi,
    /// CDI devices through annotations, for older ones.
    CdiAnnotations,
}

/// How GPUs are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DeviceIds {
    /// By what never changes.
    Uuid,
    /// By their place.
    Index,
}

/// Which of shared GPUs, or of parts, is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Preference {
    /// One that few use.
    Distributed,
    /// One that many use: others stay whole.
    Packed,
}

/// When a GPU counts as broken, and when no longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Whether XIDs count at all. GPUs that do not answer always do.
    pub xids: bool,
    /// XIDs that do not count, beside those of programs' own mistakes.
    pub ignore_xids: Vec<u64>,
    /// Seconds between two looks at every GPU.
    pub check: f64,
    /// Seconds after which a driver that does not answer at all makes every GPU count as broken.
    pub patience: f64,
    /// Seconds that a GPU has to be without another error before it is given to pods again; doubled each time that it breaks anew.
    pub probation: f64,
    /// Seconds that probation grows to at most.
    pub longest_probation: f64,
}

impl Default for HealthConfig {
    fn default() -> HealthConfig {
        HealthConfig {
            xids: true,
            ignore_xids: Vec::new(),
            check: 30.0,
            patience: 60.0,
            probation: 300.0,
            longest_probation: 3600.0,
        }
    }
}

/// Labels and taint of the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LabelsConfig {
    /// Whether labels are written.
    pub enabled: bool,
    /// Seconds between two looks at the node, if nothing of its GPUs changes.
    pub every: f64,
    /// Whether the node is tainted with `nvidia.com/gpu:NoSchedule`, so that pods without GPUs stay away.
    pub taint: bool,
}

impl Default for LabelsConfig {
    fn default() -> LabelsConfig {
        LabelsConfig { enabled: true, every: 300.0, taint: false }
    }
}

/// Metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ExporterConfig {
    /// Address to listen on.
    pub host: String,
    /// Port of metrics, health and status.
    pub port: u16,
    /// Name of the label with the node's name: `Hostname` as dcgm-exporter has it up to 4.5, `hostname` as later ones have it.
    pub hostname_label: String,
    /// Whether pods are told apart, through kubelet.
    pub pods: bool,
    /// Whether metrics of the models on this node are read from their pods, and told beside those of GPUs. It needs the right to list pods.
    pub serving: bool,
    /// Seconds between two readings of a pod.
    pub serving_every: f64,
}

impl Default for ExporterConfig {
    fn default() -> ExporterConfig {
        ExporterConfig {
            host: "0.0.0.0".to_owned(),
            port: 9100,
            hostname_label: "Hostname".to_owned(),
            pods: true,
            serving: false,
            serving_every: 5.0,
        }
    }
}

/// Settings of the GPUs. All are restored when the agent ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TuningConfig {
    /// Whether anything is set.
    pub enabled: bool,
    /// Label, as `key=value`, that a node must have for it; every node is tuned if empty.
    pub node_label: String,
    /// Only says what would be done.
    pub dry_run: bool,
    /// Switches persistence mode on. It is never switched off where it was on before.
    pub persistence: bool,
    /// What a GPU may draw, as a share of its default limit, such as 0.8. Kept within what the GPU allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Clocks of the multiprocessors, as shares of the highest: lowest and highest, such as `[0.5, 0.8]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clocks: Option<(f64, f64)>,
}

impl Default for TuningConfig {
    fn default() -> TuningConfig {
        TuningConfig {
            enabled: false,
            node_label: "wharf.dev/gpu-tuning=true".to_owned(),
            dry_run: false,
            persistence: true,
            power: None,
            clocks: None,
        }
    }
}

/// What contradicts itself in a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct ConfigError {
    /// Which field.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub what: String,
}

impl NodeConfig {
    /// Finds contradictions before anything is opened.
    ///
    /// # Errors
    /// [`ConfigError`], for the first one.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field: &str, what: String| Err(ConfigError { field: field.to_owned(), what });
        for (at, sharing) in self.plugin.sharing.iter().enumerate() {
            if sharing.replicas < 2 {
                return wrong(
                    &format!("plugin.sharing[{at}].replicas"),
                    "a device is shared by at least two".to_owned(),
                );
            }
            if sharing.resource != GPU && !sharing.resource.starts_with(MIG_PREFIX) {
                let what = format!("{} is neither {GPU} nor {MIG_PREFIX}…", sharing.resource);
                return wrong(&format!("plugin.sharing[{at}].resource"), what);
            }
            if self.plugin.sharing[..at].iter().any(|before| before.resource == sharing.resource) {
                return wrong(
                    &format!("plugin.sharing[{at}].resource"),
                    format!("{} is there twice", sharing.resource),
                );
            }
        }
        if self.plugin.device_list.is_empty() {
            return wrong(
                "plugin.deviceList",
                "containers would not be told which GPUs are theirs".to_owned(),
            );
        }
        if let Some(at) = self.preload.iter().position(|preload| preload.command.is_empty()) {
            return wrong(&format!("preload[{at}].command"), "there is no program to run".to_owned());
        }
        for (field, seconds) in [
            ("health.check", self.health.check),
            ("health.patience", self.health.patience),
            ("health.probation", self.health.probation),
            ("health.longestProbation", self.health.longest_probation),
            ("labels.every", self.labels.every),
            ("exporter.servingEvery", self.exporter.serving_every),
        ] {
            // Longer than any node lives, and short enough for every clock.
            if !(seconds > 0.0 && seconds < 1e9) {
                return wrong(field, format!("{seconds} is no number of seconds"));
            }
        }
        let share = |value: f64| value > 0.0 && value <= 1.0;
        if let Some(power) = self.tuning.power
            && !(power > 0.0 && power <= 2.0)
        {
            return wrong("tuning.power", format!("{power} is no share of the default limit"));
        }
        if let Some((low, high)) = self.tuning.clocks
            && !(share(low) && share(high) && low <= high)
        {
            return wrong(
                "tuning.clocks",
                format!("[{low}, {high}] are no shares of the highest clock, low to high"),
            );
        }
        let label = &self.tuning.node_label;
        if !label.is_empty() && !label.contains('=') {
            return wrong("tuning.nodeLabel", format!("{label} is not key=value"));
        }
        Ok(())
    }
}

/// The resource of whole GPUs.
pub const GPU: &str = "nvidia.com/gpu";
/// How resources of parts begin.
pub const MIG_PREFIX: &str = "nvidia.com/mig-";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> NodeConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_not_said_has_a_default_and_what_is_unknown_is_refused() {
        assert_eq!(read("{}"), NodeConfig::default());
        assert_eq!(NodeConfig::default().check(), Ok(()));
        assert_eq!(read(&serde_json::to_string(&NodeConfig::default()).unwrap()), NodeConfig::default());
        assert!(serde_json::from_str::<NodeConfig>(r#"{"plugins": {}}"#).is_err());
    }

    #[test]
    fn contradictions_are_found_by_their_field() {
        let share = r#"{"resource": "nvidia.com/gpu", "replicas": 2}"#;
        for (json, field) in [
            (
                r#"{"plugin": {"sharing": [{"resource": "nvidia.com/gpu", "replicas": 1}]}}"#.to_owned(),
                "plugin.sharing[0].replicas",
            ),
            (
                r#"{"plugin": {"sharing": [{"resource": "amd.com/gpu", "replicas": 2}]}}"#.to_owned(),
                "plugin.sharing[0].resource",
            ),
            (format!(r#"{{"plugin": {{"sharing": [{share}, {share}]}}}}"#), "plugin.sharing[1].resource"),
            (r#"{"plugin": {"deviceList": []}}"#.to_owned(), "plugin.deviceList"),
            (r#"{"health": {"probation": 0}}"#.to_owned(), "health.probation"),
            (r#"{"labels": {"every": 1e300}}"#.to_owned(), "labels.every"),
            (r#"{"exporter": {"servingEvery": 0}}"#.to_owned(), "exporter.servingEvery"),
            (r#"{"tuning": {"power": 0}}"#.to_owned(), "tuning.power"),
            (r#"{"tuning": {"clocks": [0.8, 0.5]}}"#.to_owned(), "tuning.clocks"),
            (r#"{"tuning": {"nodeLabel": "yes"}}"#.to_owned(), "tuning.nodeLabel"),
            (r#"{"preload": [{"name": "x", "command": []}]}"#.to_owned(), "preload[0].command"),
        ] {
            assert_eq!(read(&json).check().unwrap_err().field, field, "{json}");
        }
    }
}
