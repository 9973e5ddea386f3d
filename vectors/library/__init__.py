"""Named vectors in a directory that several processes share.

library     names, versions and content: what a server's routes call
ownership   who may see what: content that two owners share
names       names, ids, and the errors about them
record      the JSON file of one name
index       all records, each read once after every change
objects     the files of content, by digest, and a cache of their headers
entry       one version of a name: everything except the values
disk        atomic writes, the lock, disk errors
"""
