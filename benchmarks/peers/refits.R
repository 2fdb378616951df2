# lme4 in the place of refits.py: Rscript refits.R TOOL FOLDER SECONDS, TOOL `refit` or `deviance function`
suppressPackageStartupMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- arguments[2]
limit <- as.numeric(arguments[3])
shape <- scan(file.path(folder, "shape.txt"), quiet = TRUE) # n, covariates, datasets
doubles <- function(name, count) readBin(file.path(folder, name), "double", count)
values <- matrix(doubles("values.f8", shape[1] * shape[3]), nrow = shape[1])
data <- data.frame(y = values[, 1], g = factor(doubles("groups.f8", shape[1])))
covariates <- seq_len(shape[2])
x <- matrix(doubles("x.f8", shape[1] * shape[2]), nrow = shape[1])
for (i in covariates) data[[paste0("x", i)]] <- x[, i]
formula <- as.formula(paste(c("y ~ 1", if (shape[2] > 0) paste0("x", covariates), "(1 | g)"), collapse = " + "))
now <- function() as.numeric(Sys.time())

if (arguments[1] == "refit") {
  model <- suppressMessages(lmer(formula, data))
  fit <- function(y) as.data.frame(VarCorr(suppressMessages(suppressWarnings(refit(model, y)))))$vcov
} else {
  # The deviance function of the profiled REML criterion in theta, built once; each fit swaps the response.
  devfun <- do.call(mkLmerDevfun, lFormula(formula, data))
  parts <- environment(devfun)
  fit <- function(y) {
    parts$resp$setResp(y)
    theta <- optimize(devfun, c(0, 20), tol = 1e-8)$minimum
    if (devfun(0) <= devfun(theta)) theta <- 0
    devfun(theta)
    within <- (parts$resp$wrss() + parts$pp$sqrL(1)) / (shape[1] - shape[2] - 1)
    c(theta^2 * within, within)
  }
}

invisible(fit(values[, 1]))
found <- matrix(NaN, 2, shape[3])
start <- now()
for (count in seq_len(shape[3])) {
  found[, count] <- fit(values[, count])
  if (count >= 5 && now() - start > limit) break
}
seconds <- now() - start
writeBin(as.vector(t(found[, seq_len(count)])), file.path(folder, "found.f8"))
cat(sprintf('{"fits": %d, "seconds": %.17g, "version": "%s"}', count, seconds, packageVersion("lme4")))
