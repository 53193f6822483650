//! Which of OpenAI's packages are tested against Wharf, and against what: a server, a gateway in front of it, and a gateway that asks for
//! keys in front of an engine that calls tools. All are started once for all packages.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::cache::Cache;
use crate::demo_model::DemoModel;
use crate::python::Python;
use crate::server::Server;
use crate::{demo, environment, shell};

/// The Python package, with the version that its test was written for. npm's is pinned in its `package-lock.json`.
const PYTHON_PACKAGE: &str = "openai==3.54.0";
const PYTHON_TEST: &str = "tests/openai_client/test_openai.py";
const NODE_FOLDER: &str = "tests/openai_node";
const FAKE_MODEL: &str = "fake-model";
const NODE_MISSING: &str = "no Node 20 or later with npm found (on Debian: apt install nodejs npm)";

/// Tests that passed and failed.
pub(crate) type Counts = (usize, usize);

/// A package that speaks OpenAI's API, ready to test with.
pub(crate) struct Client {
    program: PathBuf,
    test: PathBuf,
    /// The variable that says where the program finds the package, and the folder.
    packages: (&'static str, PathBuf),
}

impl Client {
    /// The Python package; what is missing, if something is.
    pub(crate) fn python() -> anyhow::Result<Result<Client, &'static str>> {
        let Some(python) = Python::find() else { return Ok(Err(Python::MISSING)) };
        let packages = python.packages(&Cache::open()?, PYTHON_PACKAGE)?;
        let program = PathBuf::from(python.command().get_program());
        Ok(Ok(Client { program, test: PYTHON_TEST.into(), packages: ("PYTHONPATH", packages) }))
    }

    /// The npm package; what is missing, if something is.
    pub(crate) fn node() -> anyhow::Result<Result<Client, &'static str>> {
        let modern = "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)";
        let node = shell::works(Command::new("node").args(["-e", modern]));
        if !node || !shell::works(Command::new("npm").arg("--version")) {
            return Ok(Err(NODE_MISSING));
        }
        let source = environment::root().join(NODE_FOLDER);
        let lock = source.join("package-lock.json");
        let text = std::fs::read(&lock).with_context(|| format!("failed to read {}", lock.display()))?;
        let digest: String = Sha256::digest(&text)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        // Beside copies of what names them: npm would put packages into the source tree.
        let folder = Path::new("npm").join(format!("openai-client-{digest}"));
        let folder = Cache::open()?.filled(&folder, |folder| {
            for name in ["package.json", "package-lock.json"] {
                let (from, to) = (source.join(name), folder.join(name));
                std::fs::copy(&from, &to).with_context(|| format!("failed to copy {}", from.display()))?;
            }
            let mut npm = Command::new("npm");
            shell::run(npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder))
        })?;
        let packages = ("NODE_PATH", folder.join("node_modules"));
        let test = Path::new(NODE_FOLDER).join("test_openai.js");
        Ok(Ok(Client { program: "node".into(), test, packages }))
    }
}

/// What the clients talk to, running. Dropping it kills it; [`Stand::stop`] sees it end well.
pub(crate) struct Stand {
    server: Server,
    gateway: Server,
    engine: Server,
    /// In front of the engine.
    keyed: Server,
    key: String,
    // Dropped after its children.
    runtime: Runtime,
}

impl Stand {
    /// Starts everything and waits until it is ready.
    pub(crate) fn start(wharf: &Path, model: &DemoModel) -> anyhow::Result<Stand> {
        let fake_engine = fake_engine()?;
        let (keys, key) = issue(wharf)?;
        let stem = model.path.file_stem().unwrap_or_default().to_string_lossy();
        let runtime = demo::runtime()?;
        let (server, gateway, engine, keyed) = runtime.block_on(async {
            let mut server = Server::start(wharf, model)?;
            let mut engine = Server::fake_engine(&fake_engine, FAKE_MODEL)?;
            server.ready().await?;
            engine.ready().await?;
            let mut gateway = Server::gateway(wharf, model.name.unwrap_or(&stem), &server)?;
            let mut keyed = Server::keyed_gateway(wharf, FAKE_MODEL, &engine, &keys)?;
            gateway.ready().await?;
            keyed.ready().await?;
            anyhow::Ok((server, gateway, engine, keyed))
        })?;
        Ok(Stand { server, gateway, engine, keyed, key, runtime })
    }

    /// Runs a client's tests against the server and against the gateway; those of keys and tools once.
    pub(crate) fn test(&self, client: &Client) -> anyhow::Result<Counts> {
        let direct = run(self.command(client, &self.server), client)?;
        let keyed = self.keyed.url();
        let mut through = self.command(client, &self.gateway);
        through.env("WHARF_KEYED_URL", &keyed).env("WHARF_KEY", &self.key).env("WHARF_TOOLS_URL", &keyed);
        let through = run(through, client)?;
        Ok((direct.0 + through.0, direct.1 + through.1))
    }

    fn command(&self, client: &Client, server: &Server) -> Command {
        let mut command = Command::new(&client.program);
        command.arg(&client.test).current_dir(environment::root());
        command.env(client.packages.0, &client.packages.1).env("WHARF_URL", server.url());
        // Those of whoever runs this must not decide what is tested.
        for name in ["WHARF_KEYED_URL", "WHARF_KEY", "WHARF_TOOLS_URL"] {
            command.env_remove(name);
        }
        command
    }

    /// Asks everything to drain, those in front first.
    ///
    /// # Errors
    /// Of the first that did not end well, after all have been asked.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        let Stand { server, gateway, engine, keyed, key: _, runtime } = self;
        let mut stopped = Ok(());
        for server in [gateway, keyed, server, engine] {
            stopped = stopped.and(runtime.block_on(server.stop()));
        }
        stopped
    }
}

/// Builds the engine that computes nothing.
fn fake_engine() -> anyhow::Result<PathBuf> {
    // Of the workspace and in the dev profile: so the tests have built it already.
    shell::run(&mut shell::cargo(&["build", "--workspace", "--bin", "fake-engine"]))?;
    Ok(shell::target()?.join("debug/fake-engine"))
}

/// A key file with one key, and the key.
fn issue(wharf: &Path) -> anyhow::Result<(PathBuf, String)> {
    let folder = shell::target()?.join("client-tests");
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("failed to remove {}", folder.display()));
        }
        _ => {}
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let file = folder.join("keys.yaml");
    let key = shell::read(Command::new(wharf).args(["key", "create", "client-tests", "--file"]).arg(&file))?;
    Ok((file, key.trim().to_owned()))
}

fn run(mut test: Command, client: &Client) -> anyhow::Result<Counts> {
    let mut counts = None;
    let ok = watch(&mut test, |line| counts = counts.or_else(|| test_counts(line)))?;
    let name = client.test.display();
    let (passed, failed) = counts.with_context(|| format!("{name} ended without a result"))?;
    if !ok && failed == 0 {
        bail!("{name} failed without naming a test");
    }
    Ok((passed, failed))
}

/// Passed and failed tests in a line such as `test result: ok. 3 passed; 0 failed; …`.
pub(crate) fn test_counts(line: &str) -> Option<Counts> {
    let counts = line.trim().strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut parts = counts.split("; ");
    let mut count = |unit: &str| parts.next()?.strip_suffix(unit)?.trim().parse().ok();
    Some((count("passed")?, count("failed")?))
}

/// Runs a command, prints its output as it comes and shows each line to `see`; whether it exited with 0.
pub(crate) fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> anyhow::Result<bool> {
    let what = shell::describe(command);
    eprintln!("$ {what}");
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("failed to start `{what}`"))?;
    let out = child.stdout.take().expect("standard output is piped");
    for line in BufReader::new(out).split(b'\n') {
        let line = line.with_context(|| format!("failed to read the output of `{what}`"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        see(&line);
    }
    Ok(child.wait().with_context(|| format!("failed to wait for `{what}`"))?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_results_are_counted() {
        let ok = "test result: ok. 27 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(test_counts(ok), Some((27, 0)));
        assert_eq!(test_counts("test result: FAILED. 2 passed; 3 failed; 0 ignored"), Some((2, 3)));
        assert_eq!(test_counts("test openai ... ok"), None);
    }
}
