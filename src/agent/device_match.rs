//! The properties by which the configuration finds a device.

use serde::Deserialize;

use crate::api::Size;
use crate::host::DeviceMatch;

/// The properties of a device. A device has to have all that are present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MatchEntry {
    /// The model; `*` stands for any characters.
    model: Option<String>,
    /// The serial number or WWID; `*` stands for any characters.
    serial: Option<String>,
    /// The smallest size.
    min_size: Option<Size>,
    /// The largest size.
    max_size: Option<Size>,
    /// True: spinning disks; false: all others.
    rotational: Option<bool>,
}

impl MatchEntry {
    /// The match in the host's terms.
    pub(super) fn to_host(&self) -> Result<DeviceMatch, String> {
        let is_open =
            |pattern: &Option<String>| pattern.as_ref().is_none_or(|text| text.chars().all(|c| c == '*'));
        if is_open(&self.model) && is_open(&self.serial) {
            return Err("match needs a model or a serial: a volume that another driver has just attached is blank, too, and \
                        of any size"
                .to_owned());
        }
        let bytes =
            |size: &Option<Size>| size.as_ref().map(Size::bytes).transpose().map_err(|e| e.to_string());
        Ok(DeviceMatch {
            model: self.model.clone(),
            serial: self.serial.clone(),
            min_size: bytes(&self.min_size)?,
            max_size: bytes(&self.max_size)?,
            rotational: self.rotational,
        })
    }
}
