//! What is said of containers: sets of vDisks with settings that are theirs as long as they have none of their own.

use crate::SetRewind;
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateContainer {
    /// As the name of a vDisk.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", example = "gold"))]
    pub name: String,
    /// How much of the past its vDisks keep. Absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewind: Option<SetRewind>,
    /// Once its vDisks hold so much data, none is made in it, grown, or moved to it. 0: no limit.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(example = 10995116277760_i64))]
    pub capacity_bytes: u64,
    /// At most 256 bytes, on one line.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_length = 256))]
    pub comment: String,
}

/// What to change; what is absent stays. All of it takes effect at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetContainer {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"))]
    pub name: Option<String>,
    /// null: its vDisks keep nothing of the past, but for those that have a window of their own.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "present")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<SetRewind>))]
    pub rewind: Option<Option<SetRewind>>,
    /// 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "openapi", schema(max_length = 256))]
    pub comment: Option<String>,
}

/// A field that is null is not one that is absent.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// A container. There is always one that is called `default`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContainerInfo {
    /// For ever, across renames; never reused.
    #[cfg_attr(feature = "openapi", schema(example = "c1.5"))]
    pub id: String,
    #[cfg_attr(feature = "openapi", schema(example = "gold"))]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewind: Option<SetRewind>,
    /// 0: no limit.
    pub capacity_bytes: u64,
    /// Bytes of the address space of its vDisks that hold data.
    pub used_bytes: u64,
    pub comment: String,
    pub vdisks: u32,
    /// vDisks on which it is not carried out yet (or, after a start, whose logs were not read yet). It is tried again.
    pub vdisks_behind: u32,
    /// Why it is not carried out on one of them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_absent() {
        let set = |text: &str| serde_json::from_str::<SetContainer>(text).expect(text).rewind;
        assert_eq!(set("{}"), None);
        assert_eq!(set(r#"{"rewind": null}"#), Some(None));
        let day = SetRewind { window_seconds: 86_400, limit_bytes: 0 };
        assert_eq!(set(r#"{"rewind": {"window_seconds": 86400}}"#), Some(Some(day)));
        for rewind in [None, Some(None), Some(Some(day))] {
            let text = serde_json::to_string(&SetContainer { rewind, ..SetContainer::default() }).expect("text");
            assert_eq!(set(&text), rewind, "{text}");
        }
    }
}
