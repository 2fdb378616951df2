# lmerTest's t test of the mean with Kenward and Roger's method, a refit for each dataset.
# Rscript lmertest.R FOLDER N DATASETS: reads values.f8 and groups.f8, writes found.f8, prints the seconds.
suppressPackageStartupMessages(library(lmerTest))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[1]
n <- as.integer(arguments[2])
datasets <- as.integer(arguments[3])
values <- matrix(readBin(file.path(folder, "values.f8"), "double", n * datasets), n)
data <- data.frame(y = values[, 1], g = factor(readBin(file.path(folder, "groups.f8"), "double", n)))
fit <- function(y) {
  data$y <- y
  coef(summary(lmer(y ~ 1 + (1 | g), data, REML = TRUE), ddf = "Kenward-Roger"))[1, c("Std. Error", "df")]
}
warm <- suppressMessages(fit(values[, 1]))
seconds <- system.time(found <- suppressMessages(apply(values, 2, fit)))[["elapsed"]]
writeBin(as.vector(found), file.path(folder, "found.f8"))
cat(seconds, "\n")
