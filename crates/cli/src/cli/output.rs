//! In which form a command speaks.

use clap::{Args, ValueEnum};

use crate::progress::Style;

/// When to use colours.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How the outcome is said.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Print one JSON object for each disk
    #[arg(long)]
    pub json: bool,
    /// Print errors only (and what --json prints)
    #[arg(short, long)]
    pub quiet: bool,
    /// Print exact bytes and more detail
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
}

/// How progress is shown, on stderr.
#[derive(Debug, Args)]
pub struct ProgressArgs {
    /// How to show progress on stderr
    #[arg(long, value_enum, value_name = "STYLE", default_value = "auto")]
    pub progress: ProgressArg,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProgressArg {
    /// A bar on a terminal, else a line now and then in long runs
    Auto,
    /// A bar with rate and time left (lines where stderr is no terminal)
    Bar,
    /// A line every few seconds
    Lines,
    /// A JSON object a line
    Json,
    /// Nothing
    None,
}

impl ProgressArg {
    /// The style to use, with stderr as it is.
    pub fn style(self, quiet: bool) -> Style {
        match self {
            ProgressArg::Auto if quiet => Style::None,
            ProgressArg::Auto => Style::for_stderr(),
            ProgressArg::Bar => Style::Bar,
            ProgressArg::Lines => Style::Lines,
            ProgressArg::Json => Style::Json,
            ProgressArg::None => Style::None,
        }
    }
}

impl From<Color> for anstream::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
    }
}
