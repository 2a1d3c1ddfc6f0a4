fn main() -> std::process::ExitCode {
    enginehouse::cli::main()
}
