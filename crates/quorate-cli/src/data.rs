//! `put`, `get`, `delete` and `scan`: one call of the client library each. Values are bytes; `put -` and
//! `get` move them unchanged.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use quorate_client::{
    Client, ClientError, ClientOptions, Condition, Consistency, ErrorCode, Item, ScanOptions, Written,
};
use serde_json::{Map, Value, json};

use crate::args::{DeleteArgs, Freshness, GetArgs, PutArgs, ScanArgs};
use crate::config::{ClientConfig, OutputFormat};
use crate::failure::{Exit, Failure};
use crate::output;

/// More than any server takes: reading standard input stops here.
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// How many keys are asked for at once.
const PAGE_ITEMS: u32 = 1000;

/// A client with the options of the command line. Call within a tokio runtime.
pub(crate) fn connect(config: &ClientConfig) -> Result<Client, Failure> {
    let options = ClientOptions { deadline: config.timeout, ..ClientOptions::default() };
    Client::connect(config.endpoints.clone(), options).map_err(Failure::usage)
}

/// What an error of the client library is to a script, and what to do about it.
pub(crate) fn failure(error: ClientError, config: &ClientConfig) -> Failure {
    match error {
        ClientError::NotApplied { message } => {
            let asked = config.endpoints.join(",");
            let line = format!(
                "no node could do it, and nothing was applied: {message} (asked {asked}; check that the cluster runs, or give --endpoints or a longer --timeout)"
            );
            Failure::new(Exit::Unavailable, line)
        }
        ClientError::OutcomeUnknown { message } => Failure::new(
            Exit::OutcomeUnknown,
            format!("the outcome is unknown: {message}; look at the key before doing it again"),
        ),
        ClientError::ConditionFailed { .. } => {
            Failure::new(Exit::ConditionFailed, format!("{error}; nothing was changed"))
        }
        ClientError::Rejected(rejection) if rejection.code == ErrorCode::NotFound => {
            Failure::new(Exit::NotFound, rejection.message)
        }
        ClientError::Rejected(rejection) => Failure::new(Exit::Refused, rejection.message),
        other => Failure::error(other),
    }
}

/// `put`.
pub(crate) async fn put(args: PutArgs, config: &ClientConfig) -> Result<(), Failure> {
    let value = if args.value == "-" { read_input()? } else { args.value.into_vec() };
    let condition = match (args.if_absent, args.if_version) {
        (true, _) => Condition::Absent,
        (false, Some(version)) => Condition::Version(version),
        (false, None) => Condition::Any,
    };
    let key = bytes(args.key);
    let written = connect(config)?.put_if(key.clone(), value, condition).await;
    let written = written.map_err(|error| failure(error, config))?;
    match config.output {
        OutputFormat::Table => output::line(format!("written, version {}", written.version)),
        OutputFormat::Json => output::json(&written_json(&key, &written)),
    }
}

/// `get`.
pub(crate) async fn get(args: GetArgs, config: &ClientConfig) -> Result<(), Failure> {
    let key = bytes(args.key);
    let read = connect(config)?.get_with(key.clone(), consistency(args.freshness)).await;
    let read = read.map_err(|error| failure(error, config))?;
    let Some(item) = read.value else {
        return Err(Failure::new(Exit::NotFound, format!("there is no key {}", output::cell(&key))));
    };
    match config.output {
        OutputFormat::Table => output::bytes(&item.value),
        OutputFormat::Json => {
            let mut object = item_json(&item);
            object.insert("index".to_owned(), json!(read.index));
            output::json(&Value::Object(object))
        }
    }
}

/// `delete`.
pub(crate) async fn delete(args: DeleteArgs, config: &ClientConfig) -> Result<(), Failure> {
    let condition = args.if_version.map_or(Condition::Any, Condition::Version);
    let key = bytes(args.key);
    let written = connect(config)?.delete_if(key.clone(), condition).await;
    let written = written.map_err(|error| failure(error, config))?;
    match config.output {
        OutputFormat::Table if written.existed => output::line("deleted"),
        OutputFormat::Table => output::line("there was no such key"),
        OutputFormat::Json => output::json(&written_json(&key, &written)),
    }
}

/// `scan`.
pub(crate) async fn scan(args: ScanArgs, config: &ClientConfig) -> Result<(), Failure> {
    let client = connect(config)?;
    let end = bytes(args.end);
    let mut next = Some(bytes(args.start));
    let mut items: Vec<Item> = Vec::new();
    let mut index = 0;
    let mut left = args.limit;
    while let (Some(start), 1..) = (next.clone(), left) {
        let options = ScanOptions {
            start,
            end: end.clone(),
            limit: left.min(PAGE_ITEMS),
            consistency: consistency(args.freshness),
        };
        let page = client.scan(options).await.map_err(|error| failure(error, config))?;
        index = page.index;
        left = left.saturating_sub(u32::try_from(page.value.items.len()).unwrap_or(u32::MAX));
        items.extend(page.value.items);
        next = page.value.next_start;
    }
    match config.output {
        OutputFormat::Table => {
            let mut table = output::table(["KEY", "VALUE", "VERSION"]);
            for item in &items {
                table.add_row([output::cell(&item.key), output::cell(&item.value), item.version.to_string()]);
            }
            output::line(output::render(&table))?;
            if next.is_some() {
                crate::say(&format!("there are more keys: give a --limit above {}", args.limit));
            }
            Ok(())
        }
        OutputFormat::Json => {
            let rows: Vec<Value> = items.iter().map(|item| Value::Object(item_json(item))).collect();
            let mut object = Map::new();
            object.insert("index".to_owned(), json!(index));
            object.insert("items".to_owned(), json!(rows));
            object.insert("more".to_owned(), json!(next.is_some()));
            if let Some(next) = next {
                output::insert_bytes(&mut object, "next_start", &next);
            }
            output::json(&Value::Object(object))
        }
    }
}

fn consistency(freshness: Freshness) -> Consistency {
    match freshness {
        Freshness { stale: true, .. } => Consistency::Stale,
        Freshness { lease: true, .. } => Consistency::Lease,
        Freshness { recent: Some(age_max), .. } => Consistency::Recent(age_max),
        Freshness { recent: None, .. } => Consistency::Linearizable,
    }
}

fn bytes(argument: OsString) -> Bytes {
    Bytes::from(argument.into_vec())
}

fn read_input() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut value);
    match read {
        Ok(count) if count as u64 > INPUT_BYTES_MAX => Err(Failure::new(
            Exit::Refused,
            "standard input is larger than any value may be: nothing was written",
        )),
        Ok(_) => Ok(value),
        Err(error) => Err(Failure::error(format!("cannot read standard input: {error}"))),
    }
}

fn written_json(key: &[u8], written: &Written) -> Value {
    let mut object = Map::new();
    output::insert_bytes(&mut object, "key", key);
    object.insert("index".to_owned(), json!(written.index));
    object.insert("version".to_owned(), json!(written.version));
    object.insert("existed".to_owned(), json!(written.existed));
    Value::Object(object)
}

fn item_json(item: &Item) -> Map<String, Value> {
    let mut object = Map::new();
    output::insert_bytes(&mut object, "key", &item.key);
    output::insert_bytes(&mut object, "value", &item.value);
    object.insert("version".to_owned(), json!(item.version));
    object
}
