//! The tables of Session's releases and of signed version checks.
//!
//! Of several servers on one database, only one asks GitHub: it claims a project by moving the
//! project's next check into the future. Until then no other server can claim it.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use postgres::Transaction;
use postgres::types::ToSql;

use super::connection::{Connection, OpenConnection};
use super::error::Error;
use super::text::TextForm;
use super::writes::Wrote;
use crate::protocol::auth::BlindedId;
use crate::protocol::releases::{Asset, Channel, NewestRelease};

/// How long a version check is kept.
const CHECK_LIFETIME: &str = "90 days";
/// The approximate number of version checks that are kept. They take some 300 MB.
const MAX_CHECKS: f32 = 2_000_000.0;
/// The number of version checks that one statement deletes.
const CHECK_DELETE_BATCH: i64 = 1000;
/// The most batches that one call deletes, twice as many as needed for [`MAX_CHECKS`].
const MAX_DELETE_BATCHES: usize = 4000;

/// A project that this server has claimed, and for which it asks GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The project, `owner/name`.
    pub project: String,
    /// The value of `ETag` in GitHub's last answer.
    pub etag: Option<String>,
}

/// The known releases of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownReleases {
    /// The last successful check of GitHub; `None` if there was none.
    pub checked: Option<SystemTime>,
    /// The highest release of each channel that has one.
    pub newest: Vec<NewestRelease>,
}

const CLAIM_PROJECT: &str = "UPDATE github_projects SET next_check = now() + make_interval(secs => $2) \
     WHERE project = (SELECT project FROM github_projects \
         WHERE project = ANY($1) AND next_check <= now() \
         ORDER BY next_check LIMIT 1 FOR UPDATE SKIP LOCKED) \
     RETURNING project, etag";

const INSERT_PROJECTS: &str = "INSERT INTO github_projects (project) \
     SELECT unnest($1::text[]) ON CONFLICT DO NOTHING";

const POSTPONE_PROJECT: &str = "UPDATE github_projects \
     SET next_check = now() + make_interval(secs => $2) WHERE project = $1";

const SET_CHECKED: &str = "UPDATE github_projects SET checked = now() WHERE project = $1";

const SET_CHECKED_WITH_ETAG: &str =
    "UPDATE github_projects SET checked = now(), etag = $2 WHERE project = $1";

const DELETE_RELEASES: &str = "DELETE FROM github_releases WHERE project = $1";

const INSERT_RELEASE: &str = "INSERT INTO github_releases (project, channel, version, name, notes) \
     VALUES ($1, $2, $3, $4, $5)";

const INSERT_ASSETS: &str = "INSERT INTO github_assets (project, channel, position, name, url) \
     SELECT $1, $2, position, name, url \
     FROM unnest($3::text[], $4::text[]) WITH ORDINALITY asset (name, url, position)";

const SELECT_CHECKED: &str = "SELECT checked FROM github_projects WHERE project = $1";

const SELECT_ALL_CHECKED: &str =
    "SELECT project, checked FROM github_projects WHERE project = ANY($1)";

const SELECT_RELEASES: &str = "SELECT channel, version, release.name, notes, \
         array_agg(asset.name ORDER BY position) FILTER (WHERE position IS NOT NULL), \
         array_agg(url ORDER BY position) FILTER (WHERE position IS NOT NULL) \
     FROM github_releases release LEFT JOIN github_assets asset USING (project, channel) \
     WHERE project = $1 GROUP BY channel, version, release.name, notes";

/// Records a version check. Anybody can make signing keys, and each new one adds a row; beyond
/// [`MAX_CHECKS`] rows only existing ones are updated. The number of rows is PostgreSQL's estimate,
/// which costs nothing.
const RECORD_CHECK: &str = "INSERT INTO version_checks (blinded_id, platform, channel) \
     SELECT $1, $2, $3 \
     WHERE (SELECT reltuples < $4 FROM pg_class WHERE oid = 'version_checks'::regclass) \
         OR EXISTS (SELECT FROM version_checks \
             WHERE blinded_id = $1 AND platform = $2 AND channel = $3) \
     ON CONFLICT (blinded_id, platform, channel) DO UPDATE SET checked = excluded.checked";

impl Connection {
    /// Registers projects, unless they are registered already.
    ///
    /// # Errors
    /// Those of the database.
    pub fn register_projects(&mut self, projects: &[String]) -> Result<(), Error> {
        self.repeatable(|open| open.execute(INSERT_PROJECTS, &[&projects]))?;
        Ok(())
    }

    /// Claims the project whose check is most overdue, and schedules its next check after
    /// `interval`. `None` if no check is due.
    ///
    /// # Errors
    /// Those of the database.
    pub fn claim_project(
        &mut self,
        projects: &[String],
        interval: Duration,
    ) -> Result<Option<Claim>, Error> {
        self.repeatable(|open| {
            let claimed = open.query_opt(CLAIM_PROJECT, &[&projects, &interval.as_secs_f64()])?;
            let claim = |row: postgres::Row| {
                Ok(Claim {
                    project: row.try_get(0)?,
                    etag: row.try_get(1)?,
                })
            };
            claimed.map(claim).transpose()
        })
    }

    /// Postpones a project's next check until `delay` is over.
    ///
    /// # Errors
    /// Those of the database.
    pub fn postpone_project(&mut self, project: &str, delay: Duration) -> Result<(), Error> {
        self.repeatable(|open| open.execute(POSTPONE_PROJECT, &[&project, &delay.as_secs_f64()]))?;
        Ok(())
    }

    /// Records a successful check of a project without new releases.
    ///
    /// # Errors
    /// Those of the database.
    pub fn project_is_unchanged(&mut self, project: &str) -> Result<(), Error> {
        self.repeatable(|open| open.execute(SET_CHECKED, &[&project]))?;
        Ok(())
    }

    /// Records a successful check of a project, and replaces its known releases.
    ///
    /// # Errors
    /// Those of the database. The known releases are unchanged then.
    pub fn replace_releases(
        &mut self,
        project: &str,
        etag: Option<&str>,
        newest: &[NewestRelease],
    ) -> Result<(), Error> {
        self.repeatable(|open| {
            let form = TextForm::of(open)?;
            let mut transaction = open.client.transaction()?;
            transaction.execute(SET_CHECKED_WITH_ETAG, &[&project, &etag])?;
            transaction.execute(DELETE_RELEASES, &[&project])?;
            for release in newest {
                insert_release(&mut transaction, form, project, release)?;
            }
            transaction.commit()
        })
    }

    /// Reads when each of the projects was last checked successfully, in their order.
    ///
    /// # Errors
    /// Those of the database.
    pub fn last_checks(&mut self, projects: &[String]) -> Result<Vec<Option<SystemTime>>, Error> {
        self.repeatable(|open| {
            let rows = open.query(SELECT_ALL_CHECKED, &[&projects])?;
            let read = |row: &postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
            let rows: Result<HashMap<String, Option<SystemTime>>, postgres::Error> =
                rows.iter().map(read).collect();
            let checked = rows?;
            let of = |project| checked.get(project).copied().flatten();
            Ok(projects.iter().map(of).collect())
        })
    }

    /// Reads the known releases of a project.
    ///
    /// # Errors
    /// Those of the database.
    pub fn known_releases(&mut self, project: &str) -> Result<KnownReleases, Error> {
        self.repeatable(|open| {
            let checked = open.query_opt(SELECT_CHECKED, &[&project])?;
            let checked = checked.map(|row| row.try_get(0)).transpose()?.flatten();
            let rows = open.query(SELECT_RELEASES, &[&project])?;
            let form = TextForm::of(open)?;
            let newest = rows.iter().map(|row| read_newest(row, form));
            let newest: Result<Vec<_>, _> = newest.collect();
            Ok(KnownReleases {
                checked,
                newest: newest?.into_iter().flatten().collect(),
            })
        })
    }

    /// Records a signed version check.
    ///
    /// # Errors
    /// Those of the database.
    pub fn record_version_check(
        &mut self,
        signer: &BlindedId,
        platform: &str,
        channel: Channel,
    ) -> Result<(), Error> {
        let (signer, channel) = (signer.to_string(), channel.as_str());
        let record = |open: &mut OpenConnection| {
            let rows = open.execute(RECORD_CHECK, &[&signer, &platform, &channel, &MAX_CHECKS])?;
            Ok((
                (),
                if rows > 0 {
                    Wrote::Little
                } else {
                    Wrote::Nothing
                },
            ))
        };
        self.writing(record)
    }

    /// Deletes version checks older than [`CHECK_LIFETIME`], in batches. Returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub fn delete_old_version_checks(&mut self) -> Result<u64, Error> {
        let mut deleted = 0;
        for _ in 0..MAX_DELETE_BATCHES {
            let batch = self.repeatable(|open| {
                open.execute(
                    "DELETE FROM version_checks WHERE (blinded_id, platform, channel) IN \
                     (SELECT blinded_id, platform, channel FROM version_checks \
                      WHERE checked < now() - $1::text::interval LIMIT $2)",
                    &[&CHECK_LIFETIME, &CHECK_DELETE_BATCH],
                )
            })?;
            deleted += batch;
            if batch < CHECK_DELETE_BATCH as u64 {
                break;
            }
        }
        Ok(deleted)
    }
}

fn insert_release(
    transaction: &mut Transaction,
    form: TextForm,
    project: &str,
    release: &NewestRelease,
) -> Result<(), postgres::Error> {
    let channel = release.channel.as_str();
    let [name, notes] =
        [&release.name, &release.notes].map(|text| text.as_deref().map(|text| form.store(text)));
    let values: [&(dyn ToSql + Sync); 5] = [&project, &channel, &release.version, &name, &notes];
    transaction.execute(INSERT_RELEASE, &values)?;
    let assets = release.assets.iter();
    let (names, urls): (Vec<String>, Vec<String>) = assets
        .map(|asset| (form.store(&asset.name), form.store(&asset.url)))
        .unzip();
    transaction.execute(INSERT_ASSETS, &[&project, &channel, &names, &urls])?;
    Ok(())
}

/// Reads a release from its row. `None` if its channel is unknown, which a newer server may have
/// written.
fn read_newest(
    row: &postgres::Row,
    form: TextForm,
) -> Result<Option<NewestRelease>, postgres::Error> {
    let Some(channel) = Channel::parse(row.try_get(0)?) else {
        return Ok(None);
    };
    let text = |stored: Option<String>| stored.map(|stored| form.read(stored));
    let names: Option<Vec<String>> = row.try_get(4)?;
    let urls: Option<Vec<String>> = row.try_get(5)?;
    let assets = names
        .unwrap_or_default()
        .into_iter()
        .zip(urls.unwrap_or_default());
    Ok(Some(NewestRelease {
        channel,
        version: row.try_get(1)?,
        name: text(row.try_get(2)?),
        notes: text(row.try_get(3)?),
        assets: assets
            .map(|(name, url)| Asset {
                name: form.read(name),
                url: form.read(url),
            })
            .collect(),
    }))
}
