//! A reply as it is told: a tree of values that the control socket writes as JSON and the bus as blobmsg.
//!
//! Each type of the status becomes one in one place, so that neither encoding knows of them and the command line reads
//! replies without types of its own. Omits fractions, which no reply has. Holds one reply.

use std::borrow::Cow;

use crate::metainfo::InfoHash;
use crate::torrent::State;

/// One value, and those within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not known, or not there.
    Null,
    /// Yes or no.
    Bool(bool),
    /// What is larger stands at the largest: no reply counts that far.
    Int(i64),
    /// A text.
    Text(String),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name, in the order they are told.
    Table(Vec<(Cow<'static, str>, Value)>),
}

static NULL: Value = Value::Null;

impl Value {
    /// A table of these values by these names.
    pub fn named(names: &[&'static str], values: Vec<Value>) -> Value {
        Value::Table(names.iter().map(|name| Cow::Borrowed(*name)).zip(values).collect())
    }

    /// What stands by that name in a table; null where nothing does.
    pub fn field(&self, name: &str) -> &Value {
        let Value::Table(fields) = self else { return &NULL };
        fields.iter().find(|(known, _)| known == name).map_or(&NULL, |(_, value)| value)
    }

    /// Nothing is known.
    pub fn is_null(&self) -> bool {
        *self == Value::Null
    }

    /// The text; empty where it is none.
    pub fn text(&self) -> &str {
        if let Value::Text(text) = self { text } else { "" }
    }

    /// The number; 0 where it is none.
    pub fn number(&self) -> u64 {
        self.known_number().unwrap_or(0)
    }

    /// The number, where it is one.
    pub fn known_number(&self) -> Option<u64> {
        if let Value::Int(number) = self { u64::try_from(*number).ok() } else { None }
    }

    /// Whether it is a yes.
    pub fn flag(&self) -> bool {
        *self == Value::Bool(true)
    }

    /// The values of a list; none where it is none.
    pub fn list(&self) -> &[Value] {
        if let Value::List(values) = self { values } else { &[] }
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Bool(flag)
    }
}

impl From<u64> for Value {
    /// Never inlined: replies have dozens, and 64 bits are many instructions where registers have 32.
    #[inline(never)]
    fn from(number: u64) -> Value {
        Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Int(number.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Value {
        Value::Int(number.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<InfoHash> for Value {
    fn from(info_hash: InfoHash) -> Value {
        Value::Text(info_hash.to_string())
    }
}

impl From<State> for Value {
    fn from(state: State) -> Value {
        Value::from(state.name())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(known: Option<T>) -> Value {
        known.map_or(Value::Null, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Value {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl<A: Into<Value>, B: Into<Value>> From<(A, B)> for Value {
    fn from((first, second): (A, B)) -> Value {
        Value::List(vec![first.into(), second.into()])
    }
}

/// Makes a struct a table of its fields, in the order they are told. One that is left out does not compile.
macro_rules! table {
    ($name:ident: $($field:ident),+) => {
        impl From<$name> for Value {
            fn from($name { $($field),+ }: $name) -> Value {
                Value::named(&[$(stringify!($field)),+], vec![$(Value::from($field)),+])
            }
        }
    };
}

pub(crate) use table;

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample {
        name: Option<String>,
        size: u64,
        parts: Vec<u32>,
    }

    table!(Sample: name, size, parts);

    #[test]
    fn a_struct_is_a_table_in_the_order_of_its_fields() {
        let value = Value::from(Sample { name: None, size: u64::MAX, parts: vec![3, 4] });
        let Value::Table(fields) = &value else { panic!("{value:?}") };
        assert_eq!(fields.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["name", "size", "parts"]);
        assert!(value.field("name").is_null() && value.field("colour").is_null());
        assert_eq!(value.field("size").known_number(), Some(i64::MAX.unsigned_abs()));
        assert_eq!(value.field("parts").list(), [Value::Int(3), Value::Int(4)]);
    }

    #[test]
    fn what_is_of_another_kind_reads_as_nothing() {
        let value = Value::Int(-1);
        assert_eq!((value.text(), value.number(), value.known_number(), value.flag()), ("", 0, None, false));
        assert!(value.list().is_empty() && value.field("a").is_null());
        assert!(Value::from(true).flag() && Value::from("x").text() == "x");
    }
}
