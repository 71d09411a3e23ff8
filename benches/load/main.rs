//! The load generator: `cargo bench --bench load -- [OPTION…]`. See [`arguments::HELP`].

mod arguments;
mod chart;
mod client;
#[path = "../../tests/common/mod.rs"]
mod common;
mod compare;
mod disk;
mod door;
mod floor;
mod growth;
mod limits;
mod mix;
mod peers;
mod process;
mod small;
mod table;
mod web;
mod work;

use std::error::Error;

use arguments::Asked;

/// Measures the table, and draws it into a file if one is named.
fn table(asked: &Asked) -> Result<(), Box<dyn Error>> {
    let measured = table::measure(&asked.only, asked.rounds, asked.seconds.unwrap_or(2.0));
    println!("{}\n\n{}", process::machine(), table::describe(&measured));
    let Some(path) = &asked.chart else {
        return Ok(());
    };
    let memory = table::memory(10.0);
    println!(
        "resident memory: idle {:.1} MB, with files of 10 MB {:.0} MB, 30 s later {:.1} MB",
        memory.idle as f64 / 1e6,
        memory.busy as f64 / 1e6,
        memory.after as f64 / 1e6,
    );
    std::fs::write(path, chart::draw(&measured, &memory))?;
    Ok(())
}

/// Compares the server with its peers, and draws the table into a file if one is named.
fn peers(asked: &Asked) -> Result<(), Box<dyn Error>> {
    let seconds = asked.seconds.unwrap_or(2.0);
    let compared = peers::measure_all(&asked.only, asked.rounds, seconds);
    println!("{}\n\n{}", process::machine(), peers::table(&compared));
    if let Some(path) = &asked.chart {
        std::fs::write(path, chart::draw_peers(&compared))?;
    }
    Ok(())
}

/// Compares two builds, and prints the table.
fn compare(asked: &Asked) -> Result<(), Box<dyn Error>> {
    let with = asked.with.as_ref().ok_or("compare needs --with PROGRAM")?;
    let seconds = asked.seconds.unwrap_or(1.0);
    let table = compare::run(with, asked.via, &asked.only, asked.rounds, seconds);
    print!("{}\n\n{table}", process::machine());
    Ok(())
}

/// Refuses a part of a name that no row of the mode has.
fn check_only(asked: &Asked) -> Result<(), String> {
    let names: Vec<&str> = match asked.mode.as_str() {
        "table" => table::ROWS.iter().map(|row| row.name).collect(),
        "compare" => compare::rows().map(|row| row.name).collect(),
        "peers" => peers::ROWS.iter().map(|row| row.name).collect(),
        "disk" => disk::WAYS.iter().map(|way| way.name).collect(),
        "days" => [false, true].map(growth::settings).to_vec(),
        _ => return Ok(()),
    };
    let is_one_meant = names.iter().any(|name| name.contains(&asked.only));
    is_one_meant
        .then_some(())
        .ok_or_else(|| format!("no row is named so; there are: {}", names.join("; ")))
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(asked) = arguments::read()? else {
        print!("{}", arguments::HELP);
        return Ok(());
    };
    check_only(&asked)?;
    let (seconds, files) = (asked.seconds, asked.files);
    match asked.mode.as_str() {
        "table" => table(&asked)?,
        "mix" => print!("{}", mix::run(&asked, seconds.unwrap_or(20.0))),
        "peers" => peers(&asked)?,
        "compare" => compare(&asked)?,
        "rows" => print!("{}", growth::rows(seconds.unwrap_or(3.0))),
        "connections" => print!("{}", growth::connections(seconds.unwrap_or(2.0))),
        "small" => {
            let table = small::run(seconds.unwrap_or(20.0))?;
            println!("\n{table}");
        }
        "limits" => print!(
            "{}\n\n{}",
            process::machine(),
            limits::run(asked.rounds, seconds.unwrap_or(2.0))
        ),
        "disk" => print!("{}", disk::run(files.unwrap_or(4800), &asked.only)),
        "days" => print!("{}", growth::days(files.unwrap_or(5000), &asked.only)),
        other => unreachable!("{other} is none of the modes"),
    }
    Ok(())
}
