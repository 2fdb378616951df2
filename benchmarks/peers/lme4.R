# lme4 in the place of worker.py: Rscript lme4.R FOLDER COVARIATES
suppressPackageStartupMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
covariates <- as.integer(arguments[2])
n <- file.size(file.path(folder, "y.f8")) / 8
doubles <- function(name, count) readBin(file.path(folder, name), "double", count)
data <- data.frame(y = doubles("y.f8", n), g = factor(readBin(file.path(folder, "g.i8"), "integer", 2 * n)[c(TRUE, FALSE)]))
if (covariates > 0) {
  x <- matrix(doubles("x.f8", n * covariates), nrow = n)
  for (i in seq_len(covariates)) data[[paste0("x", i)]] <- x[, i]
  rm(x)
}
formula <- as.formula(paste(c("y ~ 1", if (covariates > 0) paste0("x", seq_len(covariates)), "(1 | g)"), collapse = " + "))
peak_memory <- function() {
  if (!file.exists("/proc/self/status")) return(NaN)
  line <- grep("^VmHWM", readLines("/proc/self/status"), value = TRUE)
  as.numeric(gsub("[^0-9]", "", line)) / 1024
}
now <- function() as.numeric(Sys.time())
answer <- function(...) { cat(..., "\n", sep = " "); flush(stdout()) }
fit <- function() suppressMessages(suppressWarnings(lmer(formula, data)))

before <- peak_memory()
answer("loaded", as.character(packageVersion("lme4")))
start <- now()
fitted <- fit()
answer("ready", format(now() - start, digits = 17), before, peak_memory())
input <- file("stdin", open = "r")
while (length(line <- readLines(input, n = 1)) > 0) {
  words <- as.numeric(strsplit(line, " ")[[1]])
  times <- c()
  end <- now() + words[2]
  while (length(times) < words[1] && (length(times) == 0 || now() < end)) {
    start <- now()
    fitted <- fit()
    times <- c(times, now() - start)
  }
  components <- as.data.frame(VarCorr(fitted))$vcov
  answer("fitted", format(median(times), digits = 17), format(components[1], digits = 17), format(components[2], digits = 17))
}
