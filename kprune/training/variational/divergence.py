"""How noisy a weight is, and how far its distribution is from the prior."""

from keras import ops

# Beyond these it makes no difference any more, and exp and log stay finite.
_LIMIT = 10.0
_SMALLEST = 1e-16
# Molchanov et al. (2017), equation 14: a fit to an integral that has no closed form.
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695


def log_alpha(theta, log_sigma2):
    """Return the log of each weight's dropout rate: its variance over its squared mean.

    Args:
        theta: float32 tensor, the means.
        log_sigma2: float32 tensor, the logs of the variances.
    """
    return ops.clip(log_sigma2 - ops.log(ops.square(theta) + _SMALLEST), -_LIMIT, _LIMIT)


def kl_divergence(log_alpha):
    """Return the divergence of each weight from the log-uniform prior, in nats.

    It falls as `log_alpha` rises, to 0: a weight that is only noise costs nothing.
    """
    rising = _K1 * (ops.sigmoid(_K2 + _K3 * log_alpha) - 1.0)
    return 0.5 * ops.softplus(-log_alpha) - rising
