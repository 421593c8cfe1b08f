"""Amazon's services from an event loop: what the SQS transport needs of them.

Requests are boto3's, on threads (see :mod:`kombu_rs.asynchronous.crew`). Kombu has a client of its
own here, over pycurl; that is not part of this package.
"""
