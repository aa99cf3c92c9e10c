//! Subsets: which instances of a service a caller means.

use std::{fmt, str::FromStr};

use crate::{
    name::{InvalidName, Label, Locality, Tag, VersionText},
    record::node::Instance,
};

/// What an instance must be. What is left out holds for every instance.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subset {
    /// A version, or the head of one: `2` is 2 and 2.x, not 20.
    pub version: Option<VersionText>,
    /// Tags that it must have, all of them.
    pub tags: Vec<Tag>,
    /// Where it must be; `None` is anywhere.
    pub zone: Option<ZonePattern>,
    /// The image that must run there.
    pub image: Option<ImagePattern>,
    /// The name that its document gives the endpoint.
    pub endpoint: Option<Label>,
}

impl Subset {
    /// Whether every instance is meant.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// The instances of this subset that `further` means too. Where both say the same thing
    /// differently, `further` is asked: it stands nearer to the call.
    #[must_use]
    pub fn narrowed(self, further: &Self) -> Self {
        let mut tags = self.tags;
        tags.extend(
            further.tags.iter().filter(|tag| !tags.contains(tag)).cloned().collect::<Vec<_>>(),
        );
        Self {
            version: further.version.clone().or(self.version),
            tags,
            zone: further.zone.clone().or(self.zone),
            image: further.image.clone().or(self.image),
            endpoint: further.endpoint.clone().or(self.endpoint),
        }
    }

    /// Whether an instance, on a node there, is meant. One that says no version has its image's
    /// tag.
    pub fn covers(&self, instance: &Instance, locality: &Locality) -> bool {
        let image = instance.image.as_deref();
        let version = instance.version.as_ref().map(VersionText::as_str);
        let version = version.or_else(|| image.and_then(image_tag));
        self.version.as_ref().is_none_or(|wanted| {
            version.is_some_and(|version| version_covers(wanted.as_str(), version))
        }) && self.tags.iter().all(|tag| instance.tags.contains(tag))
            && self.zone.as_ref().is_none_or(|zone| zone.covers(locality))
            && self.image.as_ref().is_none_or(|wanted| {
                image.is_some_and(|image| wanted.covers(image, instance.version.as_ref()))
            })
            && self.endpoint.as_ref().is_none_or(|name| *name == instance.id.endpoint)
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.version.iter().map(|v| format!("version {v}")));
        parts.extend(self.tags.iter().map(|tag| format!("tag {tag}")));
        parts.extend(self.zone.iter().map(|zone| format!("zone {zone}")));
        parts.extend(self.image.iter().map(|image| format!("image {image}")));
        parts.extend(self.endpoint.iter().map(|name| format!("endpoint {name}")));
        f.write_str(&parts.join(", "))
    }
}

/// `zone` or `region/zone`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZonePattern {
    region: Option<String>,
    zone: String,
}

impl ZonePattern {
    fn covers(&self, locality: &Locality) -> bool {
        let region = self.region.as_deref();
        locality.zone() == self.zone && region.is_none_or(|region| region == locality.region())
    }
}

impl FromStr for ZonePattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let locality: Locality = text.parse()?;
        Ok(Self {
            region: text.contains('/').then(|| locality.region().to_owned()),
            zone: locality.zone().to_owned(),
        })
    }
}

impl fmt::Display for ZonePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.region {
            Some(region) => write!(f, "{region}/{}", self.zone),
            None => f.write_str(&self.zone),
        }
    }
}

/// `name`, `name:version` or `name@digest`: the version is the head of one, as in a subset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImagePattern(pub String);

impl ImagePattern {
    /// Whether an instance that runs this image is meant. The version that it says outright goes
    /// before the image's tag.
    pub fn covers(&self, running: &str, version: Option<&VersionText>) -> bool {
        if self.0.contains('@') {
            return self.0 == running;
        }
        let tag = version.map(VersionText::as_str).or_else(|| image_tag(running));
        image_name(&self.0) == image_name(running)
            && image_tag(&self.0)
                .is_none_or(|wanted| tag.is_some_and(|tag| version_covers(wanted, tag)))
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `version` is `wanted` or one of its kind: `2` covers 2 and 2.x, not 20.
pub fn version_covers(wanted: &str, version: &str) -> bool {
    version.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The tag of an image: what stands behind the `:` of its last path part.
pub fn image_tag(image: &str) -> Option<&str> {
    let image = image.split('@').next().unwrap_or(image);
    let (_, last) = image.rsplit_once('/').unwrap_or(("", image));
    last.split_once(':').map(|(_, tag)| tag)
}

fn image_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let tag = image_tag(image);
    tag.and_then(|tag| image.strip_suffix(tag)?.strip_suffix(':')).unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_is_two_and_two_point_x_but_not_twenty() {
        for covered in ["2", "2.0", "2.3.1"] {
            assert!(version_covers("2", covered), "{covered}");
        }
        for other in ["20", "2-rc1", "1.2", ""] {
            assert!(!version_covers("2", other), "{other}");
        }
    }

    #[test]
    fn an_image_pattern_is_a_name_with_the_head_of_a_tag() {
        let covers = |pattern: &str, image| ImagePattern(pattern.into()).covers(image, None);
        assert!(covers("checkout:2", "checkout:2.3.1") && covers("checkout", "checkout:9"));
        assert!(!covers("checkout:2", "checkout:20") && !covers("checkout:2", "check:2"));
        assert!(!covers("checkout:2", "checkout"));
        assert!(covers("r:5000/a/b:1", "r:5000/a/b:1.1") && covers("r:5000/a/b", "r:5000/a/b:1"));
        assert!(covers("a@sha256:ff", "a@sha256:ff") && !covers("a@sha256:ff", "a@sha256:00"));
    }

    #[test]
    fn the_version_that_is_said_outright_goes_before_the_images_tag() {
        let pattern = ImagePattern("checkout:2".into());
        let version = |text: &str| Some(VersionText::new(text).unwrap());
        assert!(pattern.covers("checkout", version("2.1").as_ref()));
        assert!(!pattern.covers("checkout:2.3.1", version("3.0").as_ref()));
        assert!(!pattern.covers("other/checkout:2", None));
    }

    #[test]
    fn a_zone_without_region_is_that_zone_in_any_region() {
        let here: Locality = "eu-1/eu-1a".parse().unwrap();
        let covers = |pattern: &str| pattern.parse::<ZonePattern>().unwrap().covers(&here);
        assert!(covers("eu-1a") && covers("eu-1/eu-1a"));
        assert!(!covers("eu-1b") && !covers("us-1/eu-1a"));
    }
}
