# Seconds of lme4's bootMer: Rscript bootmer.R FOLDER ROWS REPLICATES, values and groups as doubles in FOLDER.

arguments <- commandArgs(trailingOnly = TRUE)
suppressPackageStartupMessages(library(lme4))
read <- function(name) readBin(file.path(arguments[1], name), "double", as.integer(arguments[2]), endian = "little")
data <- data.frame(y = read("values.f8"), g = factor(read("groups.f8")))
fit <- lmer(y ~ 1 + (1 | g), data)
numbers <- function(fit) c(fixef(fit), as.data.frame(VarCorr(fit))$vcov)
count <- as.integer(arguments[3])
quiet <- function(call) suppressMessages(suppressWarnings(call))
invisible(quiet(bootMer(fit, numbers, nsim = 2, seed = 1)))
seconds <- system.time(found <- quiet(bootMer(fit, numbers, nsim = count, seed = 1)))[["elapsed"]]
spread <- apply(found$t, 2, sd, na.rm = TRUE)
cat(sprintf("%.6f %d %.10g %.10g %.10g\n", seconds, sum(!complete.cases(found$t)), spread[1], spread[2], spread[3]))
