//! The file form: whatever serde read, before anything is known about it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value of a configuration file, of any shape, so that all problems can be found at once
/// instead of only the first that a derived reader would meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// Any other number.
    Real(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A table, in file order.
    Table(Vec<(String, Value)>),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn shape(&self) -> &'static str {
        match self {
            Value::Flag(_) => "a flag",
            Value::Number(_) => "a whole number",
            Value::Real(_) => "a fraction",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// Longest value that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Flag(flag) => flag.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Real(number) => number.fmt(f),
            Value::Text(text) if text.chars().count() > SHOWN_CHARS_MAX => {
                let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
                write!(f, "{:?}", format!("{shown}..."))
            }
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(list) => {
                let shown: Vec<_> = list.iter().take(8).map(Value::to_string).collect();
                let more = if list.len() > 8 { ", ..." } else { "" };
                write!(f, "[{}{more}]", shown.join(", "))
            }
            Value::Table(_) => f.write_str("{..}"),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        // Above every bound in the table, so that it is refused with the right message.
        Ok(Value::Number(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Real(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Value::Table(table))
    }
}
