"""Named vectors in a directory that several processes share.

library     names, versions and content: what a server's routes call
ownership   who may see what: content that two owners share
names       names, ids, and the errors about them
record      the JSON file of one name
index       all records, read once a change
objects     the files of content, by digest, and a cache of their headers
entry       one version of a name: all but the values
disk        atomic writes, the lock, disk errors
"""
