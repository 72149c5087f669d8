//! node.toml: reading it, `config check`, and the reference made from the table of keys.

use std::path::Path;

use palisade::Config;
use palisade::config::{ConfigError, KEYS, SECTIONS, Value};
use palisade_netio::allowed_cpus;
use serde_json::json;

use crate::cli::{ConfigCheck, ConfigCommand};
use crate::exit::{Exit, Failure};
use crate::text;

/// Largest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the text of node.toml.
///
/// # Errors
/// Every problem of it; a syntax error stands alone under the key `node.toml`.
pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    let value: Value = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count() + 1;
        vec![ConfigError {
            key: "node.toml".to_owned(),
            value: format!("line {line}"),
            allowed: error.message().to_owned(),
            fix: "correct the line".to_owned(),
        }]
    })?;
    Config::from_value(&value)
}

/// Reads and checks a file, and that its CPUs may be used by this process.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    let config = parse(&read(path)?).map_err(|errors| refusal(path, &errors))?;
    config.check_cpus(&allowed_cpus()).map_err(|errors| refusal(path, &errors))?;
    Ok(config)
}

fn read(path: &Path) -> Result<String, Failure> {
    let wrong = |why: String| {
        let text = format!("{}: {why}; name a readable node.toml with --config", path.display());
        Failure::new(Exit::Configuration, text)
    };
    let facts = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if facts.len() > FILE_BYTES_MAX {
        return Err(wrong(format!("{} bytes, allowed {FILE_BYTES_MAX}", facts.len())));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}

fn refusal(path: &Path, errors: &[ConfigError]) -> Failure {
    let lines: Vec<_> = errors.iter().map(|error| format!("{}: {error}", path.display())).collect();
    Failure::new(Exit::Configuration, lines.join("\n"))
}

/// `palisade config ...`
pub(crate) fn run(command: &ConfigCommand) -> Result<Exit, Failure> {
    let ConfigCommand::Check(check) = command;
    if check.explain {
        text::say(explain(check.json))?;
        return Ok(Exit::Ok);
    }
    check_file(check)
}

fn check_file(check: &ConfigCheck) -> Result<Exit, Failure> {
    let Some(path) = &check.config else {
        let text = "name a file: palisade config check --config node.toml";
        return Err(Failure::new(Exit::Usage, text));
    };
    let (errors, fingerprint) = match parse(&read(path)?) {
        Ok(config) => {
            let errors = config.check_cpus(&allowed_cpus()).err().unwrap_or_default();
            (errors, Some(format!("{:016x}", config.fingerprint())))
        }
        Err(errors) => (errors, None),
    };
    if check.json {
        let list: Vec<_> = errors
            .iter()
            .map(|error| {
                json!({"key": error.key, "value": error.value, "allowed": error.allowed,
                       "fix": error.fix})
            })
            .collect();
        text::say(format!(
            "{}\n",
            json!({"ok": errors.is_empty(), "errors": list,
                          "fingerprint": fingerprint})
        ))?;
    } else if errors.is_empty() {
        let fingerprint = fingerprint.unwrap_or_default();
        text::say(format!("{}: ok, fingerprint {fingerprint}\n", path.display()))?;
    }
    match errors.is_empty() {
        true => Ok(Exit::Ok),
        false if check.json => Ok(Exit::Configuration),
        false => Err(refusal(path, &errors)),
    }
}

/// Every key with purpose, default and bounds.
fn explain(as_json: bool) -> String {
    let mut out = String::new();
    if as_json {
        let keys: Vec<_> = KEYS
            .iter()
            .map(|key| {
                json!({"key": key.path, "default": key.default_text(),
                       "allowed": key.shape.allowed(), "purpose": key.purpose})
            })
            .collect();
        return format!("{}\n", serde_json::Value::Array(keys));
    }
    for section in SECTIONS {
        let title = if section == "member" { "[[member]]" } else { &format!("[{section}]") };
        out.push_str(&format!("{title}\n"));
        for key in KEYS.iter().filter(|key| key.path.split('.').next() == Some(section)) {
            let name = key.path.split_once('.').map_or(key.path, |(_, name)| name);
            let bounds = key.shape.allowed();
            out.push_str(&format!(
                "  {name} (default {})\n      {}\n      {bounds}\n",
                key.default_text(),
                key.purpose
            ));
        }
    }
    out
}
